# Copyright (C) The ngx_vd_module authors
"""What the pages say, in English and German, side by side.

Names in braces are filled in; a pair of texts is for one and for any other number.
"""

from __future__ import annotations

import re
from typing import Mapping, Union

LANGUAGES = ("en", "de")

Text = Union[str, tuple[str, str]]

TEXTS: Mapping[str, tuple[Text, Text]] = {
    # everywhere
    "overview": ("Overview", "Übersicht"),
    "deliveries": ("Deliveries", "Zustellungen"),
    "skip": ("Skip to the content", "Zum Inhalt springen"),
    "main_menu": ("Main menu", "Hauptmenü"),
    "live": ("Live", "Live"),
    "live_pause": ("Pause live updates", "Live-Aktualisierung anhalten"),
    "live_paused": ("Paused", "Angehalten"),
    "live_lost": ("Connection lost", "Verbindung verloren"),
    "live_away": (
        "Not up to date: the store is away",
        "Nicht aktuell: der Speicher ist weg",
    ),
    "live_go_on": ("Go on with live updates", "Live-Aktualisierung fortsetzen"),
    "times_in": ("Times are in {zone}.", "Zeiten in {zone}."),
    "keys": (
        "Keys: / search, j and k down and up, Enter opens, x selects.",
        "Tasten: / sucht, j und k ab und auf, Enter öffnet, x wählt aus.",
    ),
    "ago": ("{span} ago", "vor {span}"),
    "none": ("none", "keine"),
    "error": ("This does not work", "Das geht nicht"),
    "error_back": ("To the deliveries", "Zu den Zustellungen"),
    "error_gone": (
        "There is no such delivery. It may have been deleted after its time.",
        "Diese Zustellung gibt es nicht. Vielleicht wurde sie nach Ablauf gelöscht.",
    ),
    "error_away": (
        "The store does not answer: {why}. nginx goes on to deliver and to journal; "
        "retries and alerts wait until the store is back, as this page does.",
        "Der Speicher antwortet nicht: {why}. nginx stellt weiter zu und schreibt ins "
        "Journal; Wiederholungen und Alarme warten, bis der Speicher wieder da ist, "
        "wie diese Seite.",
    ),
    "error_asked": (
        "The address asks for something that is not there: {why}",
        "Die Adresse fragt nach etwas, das es nicht gibt: {why}",
    ),
    # states, outcomes and reasons
    "state_delivered": ("Delivered", "Zugestellt"),
    "state_pending": ("Pending", "Ausstehend"),
    "state_failed": ("Failed", "Gescheitert"),
    "state_cancelled": ("Cancelled", "Abgebrochen"),
    "under_way": ("Under way", "Läuft gerade"),
    "outcome_delivered": ("Delivered", "Zugestellt"),
    "outcome_failed": ("Failed", "Gescheitert"),
    "outcome_accepted": ("Accepted", "Angenommen"),
    "reason_connect": ("no connection", "keine Verbindung"),
    "reason_resolve": ("name not found", "Name nicht gefunden"),
    "reason_tls": ("TLS failed", "TLS gescheitert"),
    "reason_timeout": ("timed out", "Zeit abgelaufen"),
    "reason_closed": ("connection closed", "Verbindung abgebrochen"),
    "reason_protocol": ("not HTTP", "kein HTTP"),
    "reason_status": ("status", "Status"),
    "reason_internal": ("failed inside nginx", "Fehler in nginx"),
    "reason_body_missing": ("case missing", "Fall fehlt"),
    "reason_refused": ("refused by nginx", "von nginx abgewiesen"),
    "nginx_refused": (
        (
            "No attempt is known of, once since {since}. Heard: {heard}",
            "No attempt is known of, {count} times since {since}. Heard: {heard}",
        ),
        (
            "Kein Versuch ist bekannt, einmal seit {since}. Gehört: {heard}",
            "Kein Versuch ist bekannt, {count}-mal seit {since}. Gehört: {heard}",
        ),
    ),
    "conflicts": ("Conflict of contents", "Konflikt der Inhalte"),
    "conflicts_what": (
        "The app sent more than one content under this id. Of those here, each says "
        "whether it was delivered; the content above is {own}.",
        "Die Anwendung hat unter dieser ID mehr als einen Inhalt geschickt. Von jedem "
        "hier steht dabei, ob er zugestellt wurde; der Inhalt oben {own}.",
    ),
    "conflict_own_delivered": ("the one that was delivered", "wurde zugestellt"),
    "conflict_own_pending": ("the one that is attempted", "wird versucht"),
    "conflict_own_failed": ("one that was not delivered", "wurde nicht zugestellt"),
    "conflict_own_cancelled": ("one that was not delivered", "wurde nicht zugestellt"),
    "conflict_delivered": ("delivered too", "auch zugestellt"),
    "conflict_not_delivered": ("not delivered", "nicht zugestellt"),
    "repeated": (
        "The app sent the same again at {time}; it was delivered, so nothing is to be "
        "done.",
        "Die Anwendung hat dasselbe um {time} noch einmal geschickt; es war zugestellt, "
        "also ist nichts zu tun.",
    ),
    # the list
    "search": ("Search", "Suchen"),
    "search_what": (
        "Ticket ID, case or delivery ID",
        "Ticket-ID, Fall oder Zustell-ID",
    ),
    "all": ("All", "Alle"),
    "output": ("Output", "Ziel"),
    "state": ("State", "Status"),
    "reason": ("Reason", "Grund"),
    "time": ("Time", "Zeit"),
    "case": ("Case", "Fall"),
    "attempts": ("Attempts", "Versuche"),
    "ticket_id": ("Ticket ID", "Ticket-ID"),
    "any_output": ("Any output", "Alle Ziele"),
    "any_reason": ("Any reason", "Alle Gründe"),
    "any_time": ("Any time", "Jede Zeit"),
    "last_1h": ("Last hour", "Letzte Stunde"),
    "last_24h": ("Last 24 hours", "Letzte 24 Stunden"),
    "last_7d": ("Last 7 days", "Letzte 7 Tage"),
    "last_30d": ("Last 30 days", "Letzte 30 Tage"),
    "since_this": ("since {time}", "seit {time}"),
    "time_twice": (
        "That day has the hour twice; this is {time}. The other one:",
        "Diese Stunde gibt es an dem Tag zweimal; gemeint ist {time}. Die andere:",
    ),
    "from": ("From", "Von"),
    "to": ("Until", "Bis"),
    "between": ("Between", "Zeitraum"),
    "without_ticket": ("Without a ticket ID", "Ohne Ticket-ID"),
    "sorted_-created": ("Newest first", "Neueste zuerst"),
    "sorted_created": ("Oldest first", "Älteste zuerst"),
    "sorted_up": ("{column}, ascending", "{column}, aufsteigend"),
    "sorted_down": ("{column}, descending", "{column}, absteigend"),
    "order": ("Order", "Reihenfolge"),
    "apply": ("Apply", "Anwenden"),
    "reset": ("Reset", "Zurücksetzen"),
    "csv": ("Export CSV", "CSV-Export"),
    "nothing": (
        "No delivery is like that.",
        "Keine Zustellung passt dazu.",
    ),
    "nothing_yet": (
        "No delivery yet. Once nginx has journaled one, it is here within a second.",
        "Noch keine Zustellung. Sobald nginx eine ins Journal schreibt, steht sie "
        "nach einer Sekunde hier.",
    ),
    "newer": ("Newer", "Neuere"),
    "older": ("Older", "Ältere"),
    "previous": ("Back", "Zurück"),
    "following": ("Next", "Weiter"),
    "first_page": ("To the top", "Zum Anfang"),
    "pages": ("Pages", "Seiten"),
    "select_all": ("Select all on this page", "Alle auf dieser Seite auswählen"),
    "select_one": ("Select {name}", "{name} auswählen"),
    "selected": ("Selected:", "Ausgewählte:"),
    "all_found": ("All found:", "Alle gefundenen:"),
    # acts
    "act_retry": ("Retry", "Erneut senden"),
    "act_resend": ("Send again", "Noch einmal senden"),
    "act_cancel": ("Cancel", "Abbrechen"),
    "act_forget": ("Forget", "Vergessen"),
    "audit_retry": ("Retried", "Erneut gesendet"),
    "audit_resend": ("Sent again", "Noch einmal gesendet"),
    "audit_cancel": ("Cancelled", "Abgebrochen"),
    "audit_forget": ("Forgotten", "Vergessen"),
    "preview_retry": (
        ("Retry 1 delivery?", "Retry {count} deliveries?"),
        ("1 Zustellung erneut senden?", "{count} Zustellungen erneut senden?"),
    ),
    "preview_resend": (
        ("Send 1 delivered case again?", "Send {count} delivered cases again?"),
        (
            "1 zugestellten Fall noch einmal senden?",
            "{count} zugestellte Fälle noch einmal senden?",
        ),
    ),
    "preview_cancel": (
        ("Cancel 1 delivery?", "Cancel {count} deliveries?"),
        ("1 Zustellung abbrechen?", "{count} Zustellungen abbrechen?"),
    ),
    "preview_forget": (
        ("Forget 1 delivery?", "Forget {count} deliveries?"),
        ("1 Zustellung vergessen?", "{count} Zustellungen vergessen?"),
    ),
    "means_retry": (
        "Each gets a new round of attempts, the first of them at once.",
        "Jede bekommt eine neue Runde von Versuchen, den ersten sofort.",
    ),
    "means_resend": (
        "For what was delivered to the wrong thing, such as a login page. Each goes out "
        "again at once, with its id, by which a receiver that has it should know it; "
        "one that does not look at the id has the case twice.",
        "Für das, was beim Falschen ankam, etwa einer Anmeldeseite. Jeder geht sofort "
        "noch einmal hinaus, mit seiner ID, an der ein Empfänger, der ihn hat, ihn "
        "erkennen sollte; einer, der nicht auf die ID achtet, hat den Fall doppelt.",
    ),
    "means_cancel": (
        "No more attempts are made. One that is under way may still be delivered.",
        "Es folgen keine Versuche mehr. Was gerade läuft, kann noch ankommen.",
    ),
    "means_forget": (
        "Case, ticket ID and replies are erased from the store, and pending ones are "
        "cancelled. This cannot be undone.",
        "Fall, Ticket-ID und Antworten werden aus dem Speicher gelöscht, Ausstehende "
        "abgebrochen. Das lässt sich nicht rückgängig machen.",
    ),
    "noted": (
        "It is noted with the name {who}.",
        "Es wird mit dem Namen {who} vermerkt.",
    ),
    "do_retry": ("Retry now", "Jetzt erneut senden"),
    "do_resend": ("Send again now", "Jetzt noch einmal senden"),
    "do_cancel": ("Cancel them", "Abbrechen bestätigen"),
    "do_forget": ("Forget for good", "Endgültig vergessen"),
    "back": ("Back", "Zurück"),
    "refused": (
        ("1 cannot be: {why}", "{count} cannot be, such as: {why}"),
        ("1 geht nicht: {why}", "{count} gehen nicht, zum Beispiel: {why}"),
    ),
    "refusal_retry_delivered": (
        "it was delivered, the receiver would get it twice",
        "sie wurde zugestellt, der Empfänger bekäme sie doppelt",
    ),
    "refusal_retry_attempts": (
        "it has had {most} attempts, as many as can be counted",
        "sie hatte schon {most} Versuche, mehr lassen sich nicht zählen",
    ),
    "refusal_retry_forgotten": (
        "its case was forgotten, by an operator",
        "ihr Fall wurde von Hand vergessen",
    ),
    "refusal_retry_expired": (
        "its case is gone: cases are kept for {days} days (retention.bodies)",
        "ihr Fall ist gelöscht: Fälle bleiben {days} Tage (retention.bodies)",
    ),
    "refusal_retry_unread": (
        "its case is gone: the record that held it was never read",
        "ihr Fall fehlt: der Journaleintrag mit ihm wurde nie gelesen",
    ),
    "refusal_resend_not_journaled": (
        "its case is not here: nginx journals the cases that it delivered with "
        "bodies=all only",
        "ihr Fall ist nicht hier: nginx schreibt zugestellte Fälle nur mit bodies=all "
        "ins Journal",
    ),
    "refusal_cancel_delivered": (
        "it was delivered, nothing can be taken back",
        "sie wurde zugestellt und lässt sich nicht zurückholen",
    ),
    "preview_none": (
        "There is nothing to do here.",
        "Hier gibt es nichts zu tun.",
    ),
    "preview_more": (
        "There are more: each confirmation is for {count} at most.",
        "Es gibt noch mehr: jede Bestätigung gilt für höchstens {count}.",
    ),
    "preview_some": ("The first {count} of them", "Die ersten {count} davon"),
    "only_states": ("Only in state: {states}.", "Nur im Status: {states}."),
    "forget_all": (
        "Filter first: not everything can be forgotten at once.",
        "Erst filtern: alles auf einmal lässt sich nicht vergessen.",
    ),
    "token_old": (
        "This page was too old to be sure of; nothing was done. Confirm once more.",
        "Die Seite war zu alt, um sicher zu sein; nichts wurde getan. Bitte noch "
        "einmal bestätigen.",
    ),
    "done_retry": (
        ("1 delivery is retried.", "{count} deliveries are retried."),
        (
            "1 Zustellung wird erneut gesendet.",
            "{count} Zustellungen werden erneut " "gesendet.",
        ),
    ),
    "done_resend": (
        ("1 delivery is sent again.", "{count} deliveries are sent again."),
        (
            "1 Zustellung wird noch einmal gesendet.",
            "{count} Zustellungen werden noch einmal gesendet.",
        ),
    ),
    "done_cancel": (
        ("1 delivery was cancelled.", "{count} deliveries were cancelled."),
        ("1 Zustellung wurde abgebrochen.", "{count} Zustellungen wurden abgebrochen."),
    ),
    "done_forget": (
        ("1 delivery was forgotten.", "{count} deliveries were forgotten."),
        ("1 Zustellung wurde vergessen.", "{count} Zustellungen wurden vergessen."),
    ),
    "done_more": ("Go on with the next ones", "Mit den nächsten weitermachen"),
    "not_scrubbed": (
        "The store is busy: its log may hold it for a while yet.",
        "Der Speicher ist beschäftigt: sein Log kann es noch eine Weile enthalten.",
    ),
    "still_in": (
        "Still in the journal: {path}",
        "Steht noch im Journal: {path}",
    ),
    # one delivery
    "delivery": ("Delivery", "Zustellung"),
    "delivery_id": ("Delivery ID", "Zustell-ID"),
    "created": ("Created", "Angelegt"),
    "updated": ("Last change", "Letzte Änderung"),
    "location": ("Location", "Adresse bei nginx"),
    "last_reply": ("Last reply", "Letzte Antwort"),
    "next": ("What happens next", "Wie es weitergeht"),
    "next_delivered": (
        "Nothing: it was delivered.",
        "Nichts: sie wurde zugestellt.",
    ),
    "next_failed": (
        (
            "Nothing: it was given up after 1 attempt.",
            "Nothing: it was given up after {count} attempts.",
        ),
        (
            "Nichts: nach 1 Versuch wurde aufgegeben.",
            "Nichts: nach {count} Versuchen wurde aufgegeben.",
        ),
    ),
    "next_cancelled": (
        "Nothing: an operator cancelled it.",
        "Nichts: sie wurde von Hand abgebrochen.",
    ),
    "next_under_way": (
        "Attempt {number} is under way at {edge}.",
        "Versuch {number} läuft gerade auf {edge}.",
    ),
    "next_no_case": (
        "It will be given up: its case is not in the store.",
        "Sie wird aufgegeben: ihr Fall ist nicht im Speicher.",
    ),
    "next_due": (
        "Attempt {number} ({step} of {most} in this round) in {span}, at",
        "Versuch {number} ({step} von {most} in dieser Runde) in {span}, um",
    ),
    "next_late": (
        "Attempt {number} ({step} of {most} in this round) has been due for {span}.",
        "Versuch {number} ({step} von {most} in dieser Runde) ist seit {span} fällig.",
    ),
    "duration": ("Duration", "Dauer"),
    "status": ("Status", "Status"),
    "upstream": ("Upstream", "Gegenstelle"),
    "outcome": ("Outcome", "Ergebnis"),
    "reply": ("Reply", "Antwort"),
    "number": ("No.", "Nr."),
    "case_content": ("Case", "Fall"),
    "case_gone": (
        "The case is not in the store. Delivered cases are journaled with "
        "bodies=all only, and all are deleted after their time.",
        "Der Fall ist nicht im Speicher. Zugestellte Fälle stehen nur mit bodies=all "
        "im Journal, und alle werden nach Ablauf gelöscht.",
    ),
    "case_forgotten": ("The case was forgotten.", "Der Fall wurde vergessen."),
    "case_cut": ("Only the beginning is shown.", "Nur der Anfang wird gezeigt."),
    "copy": ("Copy", "Kopieren"),
    "copied": ("Copied", "Kopiert"),
    "download": ("Download", "Herunterladen"),
    "entries": (
        ("1 entry", "{count} entries"),
        ("1 Eintrag", "{count} Einträge"),
    ),
    "told": ("Alerts, mails and callbacks", "Alarme, Mails und Rückmeldungen"),
    "told_nothing": ("Nothing was sent.", "Nichts wurde verschickt."),
    "kind_alert-mail": ("Alert by e-mail", "Alarm per E-Mail"),
    "kind_alert-slack": ("Alert to Slack", "Alarm an Slack"),
    "kind_backup": ("Backup by e-mail", "Sicherung per E-Mail"),
    "kind_callback": ("Callback to the app", "Rückmeldung an die App"),
    "sent": ("Sent", "Verschickt"),
    "not_sent": ("Not sent", "Nicht verschickt"),
    "sent_later": (
        ("Waits; 1 try in vain", "Waits; {count} tries in vain"),
        ("Wartet; 1 Versuch vergeblich", "Wartet; {count} Versuche vergeblich"),
    ),
    "operators": ("What operators did", "Was Menschen getan haben"),
    "who": ("Who", "Wer"),
    "act": ("Act", "Aktion"),
    "neighbours": ("Same case", "Gleicher Fall"),
    "all_of_case": ("All deliveries of this case", "Alle Zustellungen dieses Falls"),
    "curl": ("Retry as curl", "Erneut senden mit curl"),
    "bytes": (("1 byte", "{count} bytes"), ("1 Byte", "{count} Bytes")),
    # the overview
    "range_hour": ("Hour", "Stunde"),
    "range_day": ("Day", "Tag"),
    "range_week": ("Week", "Woche"),
    "range": ("Time range", "Zeitraum"),
    "chart": (
        "Attempts: {delivered} delivered, {failed} failed",
        "Versuche: {delivered} zugestellt, {failed} gescheitert",
    ),
    "chart_bar": (
        "{time}: {delivered} delivered, {failed} failed",
        "{time}: {delivered} zugestellt, {failed} gescheitert",
    ),
    "success": ("Success rate", "Erfolgsquote"),
    "success_what": (
        "Share of the attempts that were delivered, in the time range",
        "Anteil der zugestellten an allen Versuchen, im Zeitraum",
    ),
    "median": ("Median", "Median"),
    "p95": ("95th percentile", "95. Perzentil"),
    "oldest_due": ("Oldest due retry", "Älteste fällige Wiederholung"),
    "last_delivered": ("Last delivered", "Zuletzt zugestellt"),
    "never": ("never", "nie"),
    "journal_lag": ("Journal lag", "Rückstand des Journals"),
    "outputs": ("Outputs", "Ziele"),
    "failing": (
        "Output {output} is failing: of its attempts in the last 15 minutes, {failed} "
        "failed and {delivered} were delivered.",
        "Ziel {output} ist gestört: von den Versuchen der letzten 15 Minuten sind "
        "{failed} gescheitert und {delivered} zugestellt.",
    ),
    "overdue": (
        "The oldest retry of output {output} is overdue by {span}.",
        "Die älteste Wiederholung von Ziel {output} ist seit {span} überfällig.",
    ),
    "journal_stalled": (
        "The journal has not been read for {span}.",
        "Das Journal wurde seit {span} nicht gelesen.",
    ),
    "journal_not_read": (
        (
            "1 segment of the journal cannot be read ({path}: {why}): what is in it "
            "is neither retried nor shown. As root:",
            "{count} segments of the journal cannot be read (such as {path}: {why}): "
            "what is in them is neither retried nor shown. As root:",
        ),
        (
            "1 Segment des Journals ist nicht lesbar ({path}: {why}): was darin steht, "
            "wird weder wiederholt noch gezeigt. Als root:",
            "{count} Segmente des Journals sind nicht lesbar (zum Beispiel {path}: "
            "{why}): was darin steht, wird weder wiederholt noch gezeigt. Als root:",
        ),
    ),
    "journal_not_deleted": (
        (
            "1 segment of the journal that was read cannot be deleted ({path}: {why}). "
            "As root:",
            "{count} segments of the journal that were read cannot be deleted (such as "
            "{path}: {why}). As root:",
        ),
        (
            "1 gelesenes Segment des Journals lässt sich nicht löschen ({path}: {why}). "
            "Als root:",
            "{count} gelesene Segmente des Journals lassen sich nicht löschen (zum "
            "Beispiel {path}: {why}). Als root:",
        ),
    ),
    "notices_stalled": (
        "Alerts, mails or callbacks have waited for {span}.",
        "Alarme, Mails oder Rückmeldungen warten seit {span}.",
    ),
    "show_them": ("Show them", "Ansehen"),
}


def text(language: str, key: str, count: int = 0, **values: object) -> str:
    """The text for ``key``; ``count`` chooses between one and many."""
    found = TEXTS[key][LANGUAGES.index(language)]
    if isinstance(found, tuple):
        found = found[0 if count == 1 else 1]
        values["count"] = number(language, count)
    elif count:
        values["count"] = number(language, count)
    return re.sub(r"\{(\w+)\}", lambda name: str(values[name[1]]), found)


def number(language: str, value: int) -> str:
    grouped = f"{value:,}"
    return grouped.replace(",", ".") if language == "de" else grouped


def language_of(accepted: str) -> str:
    """The one that an ``Accept-Language`` prefers; English if it names neither."""
    best, quality = "en", 0.0
    for part in accepted.split(",")[:20]:
        name, _, parameters = part.partition(";")
        match = re.search(r"q\s*=\s*([0-9.]{1,5})", parameters)
        try:
            given = float(match[1]) if match else 1.0
        except ValueError:
            continue
        language = name.strip().lower().partition("-")[0]
        if language in LANGUAGES and given > quality:
            best, quality = language, given
    return best
