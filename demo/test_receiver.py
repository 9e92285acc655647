#!/usr/bin/python3
#
# Copyright (C) The ngx_vd_module authors

"""Tests of the receiver: /usr/bin/python3 -m unittest demo/test_receiver.py"""

import http.client
import importlib.machinery
import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
import time
import types
import unittest
from email.message import Message
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
VECTORS = json.loads((HERE / "vectors/signatures.json").read_text())["vectors"]


def load_receiver() -> types.ModuleType:
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("receiver", str(HERE / "receiver"))
    spec = importlib.util.spec_from_loader("receiver", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["receiver"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


receiver = load_receiver()

HEADERS = {name: scheme.header for name, scheme in receiver.SCHEMES.items()}
SIGNED = [vector for vector in VECTORS if "value" in vector]
TIMED = [vector for vector in SIGNED if "timestamp" in vector]


def headers_of(vector: dict[str, Any], value: str) -> Message:
    headers = Message()
    headers[HEADERS[vector["scheme"]]] = value
    headers["webhook-id"] = vector.get("id", "msg_1")
    headers["webhook-timestamp"] = str(vector.get("timestamp", 0))
    if vector["scheme"] == "slack":
        headers["X-Slack-Request-Timestamp"] = str(vector["timestamp"])
    return headers


class SignatureTest(unittest.TestCase):
    """Each vector is taken as it is, and refused once anything is changed."""

    def verify(
        self,
        vector: dict[str, Any],
        value: str | None = None,
        secrets: list[str] | None = None,
        body: str | None = None,
        late: float = 0,
    ) -> None:
        secrets = vector["secrets"] if secrets is None else secrets
        output = receiver.Output(
            "28",
            "ticket",
            vector["scheme"],
            secrets=[secret.encode() for secret in secrets],
        )
        output.verify(
            headers_of(vector, vector["value"] if value is None else value),
            (vector["body"] if body is None else body).encode(),
            vector.get("timestamp", 0) + late,
        )

    def refused(self, why: str, vector: dict[str, Any], **changes: Any) -> None:
        with self.assertRaisesRegex(receiver.Rejected, why):
            self.verify(vector, **changes)

    def test_every_scheme_has_a_vector(self) -> None:
        self.assertEqual({vector["scheme"] for vector in SIGNED}, set(HEADERS))

    def test_vectors_are_taken(self) -> None:
        for vector in SIGNED:
            with self.subTest(vector["source"]):
                self.verify(vector)

    def test_value_that_must_not_be_produced(self) -> None:
        for vector in VECTORS:
            if "not" in vector:
                self.refused("wrong signature", vector, value=vector["not"])

    def test_changed_body(self) -> None:
        for vector in SIGNED:
            with self.subTest(vector["source"]):
                self.refused("wrong signature", vector, body=vector["body"] + " ")

    def test_changed_signature(self) -> None:
        for vector in SIGNED:
            if len(vector["secrets"]) > 1:
                continue
            with self.subTest(vector["source"]):
                tail = "A" if vector["value"][-5] != "A" else "B"
                value = vector["value"][:-5] + tail + vector["value"][-4:]
                self.refused("wrong signature", vector, value=value)
                self.refused("wrong signature", vector, value=vector["value"][:-4])
                self.refused("", vector, value="")
                self.refused("", vector, value="\xe4")

    def test_other_secret(self) -> None:
        for vector in SIGNED:
            with self.subTest(vector["source"]):
                self.refused("wrong signature", vector, secrets=["other"])
                self.verify(vector, secrets=["other", vector["secrets"][-1]])

    def test_rotation(self) -> None:
        """Signed with two secrets: a receiver that knows either takes it."""
        (vector,) = [vector for vector in SIGNED if len(vector["secrets"]) == 2]
        for secret in vector["secrets"]:
            self.verify(vector, secrets=[secret])

    def test_timestamp_tolerance(self) -> None:
        schemes = {vector["scheme"] for vector in TIMED}
        self.assertEqual(schemes, {"standard", "stripe", "slack"})
        for vector in TIMED:
            with self.subTest(vector["source"]):
                self.verify(vector, late=300)
                self.verify(vector, late=-300)
                self.refused("301 s old", vector, late=301)
                self.refused("301 s ahead", vector, late=-301)

    def test_timestamp_that_is_none(self) -> None:
        vector = {"scheme": "standard", "secrets": ["a"], "value": "v1,", "body": ""}
        for text in ("", "-1", "1.5", "\xb2", "9" * 5000):
            headers = headers_of(vector, "v1,")
            headers.replace_header("webhook-timestamp", text)
            output = receiver.Output("28", "ticket", secrets=[b"a"])
            with self.assertRaisesRegex(receiver.Rejected, "no timestamp"):
                output.verify(headers, b"", 0)

    def test_no_header(self) -> None:
        output = receiver.Output("28", "ticket", secrets=[b"a"])
        with self.assertRaisesRegex(receiver.Rejected, "no signature header"):
            output.verify(Message(), b"", 0)

    def test_header_of_the_outputs_own(self) -> None:
        (vector,) = [vector for vector in SIGNED if vector["scheme"] == "hex"]
        output = receiver.Output("28", "ticket", "hex", "X-Mine", [b"Jefe"])
        headers = Message()
        headers["x-mine"] = vector["value"]
        output.verify(headers, vector["body"].encode(), 0)


class ServerTest(unittest.TestCase):
    """The program itself, on a port of its own."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="vd-receiver-")
        self.addCleanup(directory.cleanup)
        self.prefix = Path(directory.name)
        self.secret = self.prefix / "secret"
        self.secret.write_text("shared\n")
        self.log = self.prefix / "log"
        port_file = self.prefix / "port"
        secrets = [f"--secret-file={id}:{self.secret}" for id in ("28", "29", "30")]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    HERE / "receiver",
                    f"--port-file={port_file}",
                    "--output=28:ticket:hex",
                    "--output=29:workflow:hex",
                    "--output=30:signature:hex",
                    *secrets,
                    '--fail={"output": "30", "status": 503}',
                ],
                stdout=log,
                stderr=subprocess.DEVNULL,
            )
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        deadline = time.monotonic() + 10
        while not (port_file.exists() and port_file.read_text()):
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        port = int(port_file.read_text())
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.addCleanup(self.connection.close)

    def post(
        self, path: str, body: bytes, id: str = "a", signature: str | None = None
    ) -> tuple[int, Any]:
        if signature is None:
            output = receiver.hmac.digest(b"shared", body, "sha256")
            signature = output.hex()
        headers = {"X-Signature": signature, "webhook-id": id}
        self.connection.request("POST", path, body, headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def plan(self, **failure: Any) -> tuple[int, Any]:
        return self.post("/control", json.dumps(failure).encode())

    def test_three_forms_on_one_connection(self) -> None:
        body = '{"größe": "ß 🚨"}'.encode()
        self.assertEqual(
            self.post("/hooks/28", body),
            (200, {"success": True, "ticket_id": "VD-10001"}),
        )
        kept = self.connection.sock
        self.assertIsNotNone(kept)
        self.assertEqual(
            self.post("/hooks/29", body), (200, {"message": "Workflow was started"})
        )
        self.assertEqual(self.post("/hooks/30", body)[0], 503)
        self.assertEqual(
            self.post("/hooks/30", body),
            (200, {"success": "Valid HMAC signature", "status": 200}),
        )
        self.assertIs(self.connection.sock, kept)

    def test_wrong_signature(self) -> None:
        self.assertEqual(
            self.post("/hooks/28", b"{}", signature="00"),
            (401, {"error": "Invalid HMAC signature"}),
        )

    def test_duplicates_have_one_ticket(self) -> None:
        tickets = [self.post("/hooks/28", b"{}", id)[1]["ticket_id"] for id in "abacb"]
        expected = ["VD-10001", "VD-10002", "VD-10001", "VD-10003", "VD-10002"]
        self.assertEqual(tickets, expected)

    def test_fails_as_often_as_told(self) -> None:
        self.assertEqual(self.plan(output="29", status=410, times=2)[0], 200)
        statuses = [self.post("/hooks/29", b"{}")[0] for _ in range(3)]
        self.assertEqual(statuses, [410, 410, 200])

    def test_a_lost_answer_leaves_a_ticket(self) -> None:
        self.plan(output="28", close=True)
        with self.assertRaises(http.client.RemoteDisconnected):
            self.post("/hooks/28", b"{}", "a")
        self.connection.close()
        self.assertEqual(self.post("/hooks/28", b"{}", "b")[1]["ticket_id"], "VD-10002")
        self.assertEqual(self.post("/hooks/28", b"{}", "a")[1]["ticket_id"], "VD-10001")

    def test_delay(self) -> None:
        self.plan(output="28", delay=0.3)
        start = time.monotonic()
        self.assertEqual(self.post("/hooks/28", b"{}")[0], 200)
        self.assertGreaterEqual(time.monotonic() - start, 0.3)

    def test_control_that_is_not_understood(self) -> None:
        for body in (
            b"",
            b"[]",
            b"{}",
            b'{"output": 28}',
            b'{"output": "31"}',
            b'{"output": "28", "status": 99}',
            b'{"output": "28", "status": "many"}',
            b'{"output": "28", "delay": -1}',
            b'{"output": "28", "colour": 1}',
        ):
            with self.subTest(body):
                self.assertEqual(self.post("/control", body)[0], 400)

    def test_unknown_path(self) -> None:
        self.assertEqual(self.post("/hooks/31", b"{}")[0], 404)

    def test_a_body_that_is_cut_short(self) -> None:
        self.connection.putrequest("POST", "/hooks/28")
        self.connection.putheader("Content-Length", "3")
        self.connection.endheaders(b"{}")
        assert self.connection.sock is not None
        self.connection.sock.shutdown(socket.SHUT_WR)
        with self.assertRaises(http.client.RemoteDisconnected):
            self.connection.getresponse()
        self.assertIn("cut short", self.log.read_text())

    def test_log(self) -> None:
        self.post("/hooks/28", b"{}", "first")
        self.post("/hooks/28", b"{}", "first")
        self.post("/hooks/28", b"{}", "second", signature="00")
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.assertEqual(
            [(line["id"], line["verdict"], line["status"]) for line in lines],
            [
                ("first", "valid", 200),
                ("first", "duplicate", 200),
                ("second", "rejected: wrong signature", 401),
            ],
        )
        self.assertEqual(lines[0]["bytes"], 2)
        self.assertEqual(lines[0]["path"], "/hooks/28")
        self.assertEqual(lines[0]["answer"]["ticket_id"], "VD-10001")


if __name__ == "__main__":
    unittest.main()
