# Copyright (C) The ngx_vd_module authors
"""The description of the API, in OpenAPI 3.1: its schemas are JSON Schema's."""

from __future__ import annotations

from typing import Any, Mapping

from .. import __version__
from ..model import STATES
from ..options import REASONS
from ..store import stats
from ..store.lists import COLUMNS
from . import acting, asked

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
NUMBER_OR_NULL: Schema = {"type": ["integer", "null"]}
TIME: Schema = {"type": "string", "format": "date-time"}
TIME_OR_NULL: Schema = {"type": ["string", "null"], "format": "date-time"}
STATE: Schema = {"type": "string", "enum": list(STATES)}
REASON: Schema = {"type": ["string", "null"], "enum": [*REASONS, None]}
CODE: Schema = {
    "type": ["string", "null"],
    "enum": [
        "delivered",
        "attempts",
        "forgotten",
        "expired",
        "unread",
        "not_journaled",
        None,
    ],
}
CURSOR: Schema = {
    "type": ["string", "null"],
    "description": "The cursor of what follows; null if nothing does.",
}


def _object(
    properties: Mapping[str, Schema], optional: Mapping[str, Schema] = {}
) -> Schema:
    return {
        "type": "object",
        "properties": {**properties, **optional},
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _one_or_more(items: Schema) -> Schema:
    return {"oneOf": [items, _list(items)]}


_DELIVERY: Mapping[str, Schema] = {
    "id": TEXT,
    "output": TEXT,
    "label": TEXT,
    "case": TEXT_OR_NULL,
    "state": STATE,
    "created": {**TIME, "description": "When its first record was written."},
    "updated": {**TIME, "description": "Of its last attempt, or an operator's act."},
    "attempts": {**NUMBER, "minimum": 0},
    "due": {
        **TIME_OR_NULL,
        "description": "Of the next attempt; null if there is none, or it is under way.",
    },
    "status": {**NUMBER_OR_NULL, "description": "Of the receiver's last answer."},
    "reason": {**REASON, "description": "Why the last attempt failed."},
    "ticket_id": TEXT_OR_NULL,
    "ticket_error": TEXT_OR_NULL,
}
_EXCHANGE = _object(
    {
        "time": TIME,
        "attempt": NUMBER,
        "outcome": {"type": "string", "enum": ["delivered", "failed", "accepted"]},
        "reason": TEXT_OR_NULL,
        "status": NUMBER_OR_NULL,
        "upstream": TEXT_OR_NULL,
        "duration_ms": NUMBER_OR_NULL,
        "ticket_id": TEXT_OR_NULL,
        "ticket_error": TEXT_OR_NULL,
        "response": TEXT_OR_NULL,
    }
)
_NOTICE = _object(
    {
        "kind": TEXT,
        "created": TIME,
        "sent": TIME_OR_NULL,
        "due": TIME_OR_NULL,
        "tries": NUMBER,
        "error": TEXT_OR_NULL,
    }
)
_ACT = _object({"time": TIME, "who": TEXT, "act": TEXT})
_BODY: Mapping[str, Schema] = {
    "body": {**TEXT, "description": "The case, if it was asked for."},
    "body_b64": {**TEXT, "description": "The case, if it is not UTF-8."},
}
_CONFLICT = _object(
    {
        "time": {**TIME, "description": "When it came first."},
        "digest": TEXT,
        "delivered": {**FLAG, "description": "Whether the receiver took it too."},
        "ticket_id": TEXT_OR_NULL,
        "content_type": TEXT_OR_NULL,
        "body_bytes": {**NUMBER_OR_NULL, "description": "null: it is not known."},
    },
    _BODY,
)
_DETAIL = _object(
    {
        **_DELIVERY,
        "uri": TEXT,
        "content_type": TEXT_OR_NULL,
        "forgotten": FLAG,
        "digest": {**TEXT_OR_NULL, "description": "SHA-256 of the case."},
        "refusals": {
            **NUMBER,
            "description": "By nginx, since it last made an attempt.",
        },
        "refused_since": TIME_OR_NULL,
        "refusal": {**TEXT_OR_NULL, "description": "What was heard, and from whom."},
        "under_way_at": {**TEXT_OR_NULL, "description": "The edge that attempts it."},
        "next": {**TEXT, "description": "What happens next, in words."},
        "body_bytes": {**NUMBER_OR_NULL, "description": "null: it is not known."},
        "exchanges": _list(_EXCHANGE),
        "notices": _list(_NOTICE),
        "acts": _list(_ACT),
        "conflicts": {
            **_list(_CONFLICT),
            "description": "Other contents that came under the same id.",
        },
    },
    _BODY,
)
_OUTPUT = _object(
    {
        "output": TEXT,
        "label": TEXT,
        **{state: NUMBER for state in STATES},
        "due": {
            **NUMBER,
            "description": f"To be attempted now; counted up to {stats.MOST}.",
        },
        "oldest_due_age_seconds": {"type": "number"},
    }
)
_SPAN_OR_TIME = {
    **TEXT,
    "description": "A date, a time (RFC 3339; UTC without a zone), or a span such as"
    " 2h or 30d before now.",
}
_CONDITIONS: Mapping[str, Schema] = {
    "output": TEXT,
    "state": STATE,
    "reason": {"type": "string", "enum": list(REASONS)},
    "since": _SPAN_OR_TIME,
    "until": _SPAN_OR_TIME,
    "case": TEXT,
    "ticket_id": TEXT,
    "search": {
        **TEXT,
        "description": "The id, the case or the ticket id, or a part of one.",
    },
    "without_ticket": {**FLAG, "description": "Only those without a ticket id."},
}
_FILTER: Schema = {
    "type": "object",
    "properties": {
        name: _one_or_more(schema) if name in ("output", "state") else schema
        for name, schema in _CONDITIONS.items()
    },
    "minProperties": 1,
    "additionalProperties": False,
}
_TO_DO: Schema = {
    "type": "object",
    "properties": {
        "ids": {**_list(TEXT), "minItems": 1, "maxItems": asked.MAX_IDS},
        "output": {
            **_one_or_more(TEXT),
            "description": "Only the deliveries of these outputs, of those with ids.",
        },
        "filter": _ref("Filter"),
        "cursor": {**TEXT, "description": "Go on behind what was done before."},
        "dry_run": {**FLAG, "default": False},
    },
    "oneOf": [{"required": ["ids"]}, {"required": ["filter"]}],
    "additionalProperties": False,
}
_DONE = _object(
    {
        "act": {"type": "string", "enum": ["retry", "resend", "cancel", "forget"]},
        "dry_run": FLAG,
        "done": NUMBER,
        "refused": NUMBER,
        "outputs": {"type": "object", "additionalProperties": NUMBER},
        "deliveries": _list(
            _object(
                {
                    "id": TEXT,
                    "output": TEXT,
                    "before": STATE,
                    "state": STATE,
                    "refused": {**TEXT_OR_NULL, "description": "Why not, in words."},
                    "code": {**CODE, "description": "Why not."},
                }
            )
        ),
        "not_found": _list(TEXT),
        "next": CURSOR,
    },
    {
        "segments": {
            **_list(_object({"path": TEXT, "goes": TEXT})),
            "description": "Files of the journal that hold what was forgotten.",
        },
        "other_edges": _list(TEXT),
    },
)


def document() -> dict[str, object]:
    """The whole of it, ready for JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vd-sidecar",
            "version": __version__,
            "description": "Deliveries of ngx_vd_module: what became of them, and "
            "what operators can do. The header X-Remote-User, which the proxy in "
            "front must set or remove, names who did it.",
        },
        "paths": {
            "/api/deliveries": {"get": _LIST},
            "/api/deliveries/{id}": {"get": _SHOW},
            **{
                f"/api/deliveries/{act}": {"post": _post(act, summary)}
                for act, summary in _ACTS.items()
            },
            "/api/outputs": {"get": _OUTPUTS},
            "/api/openapi.json": {"get": _DESCRIPTION},
        },
        "components": {
            "schemas": {
                "Delivery": _object(_DELIVERY),
                "Detail": _DETAIL,
                "Output": _OUTPUT,
                "Filter": _FILTER,
                "ToDo": _TO_DO,
                "Done": _DONE,
                "Error": _object({"error": TEXT}),
            }
        },
    }


def _parameter(name: str, schema: Schema, place: str = "query") -> Schema:
    parameter: dict[str, Any] = {"name": name, "in": place, "schema": schema}
    if place == "path":
        parameter["required"] = True
    return parameter


def _answers(schema: Schema, *errors: int) -> Schema:
    answers: dict[str, Any] = {"200": _answer("It is done.", schema)}
    for status in errors:
        answers[str(status)] = _answer(_ERRORS[status], _ref("Error"))
    return answers


def _answer(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _post(act: str, summary: str) -> Schema:
    return {
        "operationId": act,
        "summary": summary,
        "description": "All that the filter means, newest first, but at most "
        f"{acting.MOST:,} in one request; `next` says whether there may be more. Without a state in "
        "its filter, retry is for those that failed, resend for those delivered, and "
        "cancel for those pending.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("ToDo")}},
        },
        "responses": _answers(_ref("Done"), 400, 403, 413, 415, 503),
    }


_ERRORS = {
    400: "The request is wrong.",
    403: "A page of another site asked for it.",
    404: "There is no such delivery.",
    413: "The request is too large.",
    415: "The request is not application/json.",
    503: "The store is away, or the query takes too long.",
}
_ACTS = {
    "retry": "Attempt deliveries again, in a new round.",
    "resend": "Attempt deliveries again, also those that were delivered.",
    "cancel": "Make no more attempts.",
    "forget": "Erase the content of deliveries, for good.",
}
_LIST: Schema = {
    "operationId": "list",
    "summary": "List deliveries, newest first unless sorted otherwise.",
    "parameters": [
        *(
            _parameter(name, _list(schema) if name in ("output", "state") else schema)
            for name, schema in _CONDITIONS.items()
        ),
        _parameter(
            "sort",
            {
                "type": "string",
                "enum": [f"{sign}{column}" for column in COLUMNS for sign in ("", "-")],
                "default": "-created",
                "description": "The column to sort by, a minus in front of it turns "
                "it around.  What lacks a value comes last either way; with the same "
                "value, the newest come first, but for a case or a ticket id, where "
                "age turns around with it.",
            },
        ),
        _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
        _parameter(
            "cursor",
            {**TEXT, "description": "`next` of an earlier answer with the same sort."},
        ),
    ],
    "responses": _answers(
        _object({"deliveries": _list(_ref("Delivery")), "next": CURSOR}), 400, 503
    ),
}
_SHOW: Schema = {
    "operationId": "show",
    "summary": "All that is known of the deliveries with this id, one an output.",
    "parameters": [
        _parameter("id", TEXT, "path"),
        _parameter("output", _list(TEXT)),
        _parameter("body", {**FLAG, "description": "With the case itself."}),
    ],
    "responses": _answers(
        _object({"id": TEXT, "deliveries": _list(_ref("Detail"))}), 400, 404, 503
    ),
}
_OUTPUTS: Schema = {
    "operationId": "outputs",
    "summary": "Outputs that ever had a delivery, and what waits for them.",
    "responses": _answers(_object({"outputs": _list(_ref("Output"))}), 503),
}
_DESCRIPTION: Schema = {
    "operationId": "openapi",
    "summary": "This document.",
    "responses": _answers({"type": "object"}),
}
