# Copyright (C) The ngx_vd_module authors

"""What is installed and fetched to build and to test, and by whom."""

import base64
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="vd-build-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.bin = self.dir / "bin"
        self.bin.mkdir()

    def only(self, *programs: str) -> None:
        """All that is on PATH."""
        for program in programs:
            path = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
            assert path, program
            (self.bin / program).symlink_to(path)

    def stub(self, *programs: str) -> None:
        """These write down what they are called with."""
        for program in programs:
            path = self.bin / program
            path.write_text(f'#!/bin/sh\necho {program} "$@" >> {self.dir}/called\n')
            path.chmod(0o755)

    def run_here(
        self, name: str, *words: str, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["/bin/bash", str(HERE / name), *words],
            env={"PATH": str(self.bin), "HOME": str(self.dir), **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )


class Npm(Case):
    """A registry of our own has one package, which a lock file names."""

    def setUp(self) -> None:
        super().setUp()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            entry = tarfile.TarInfo("package/index.js")
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"one\n"))
        self.packed = packed.getvalue()
        self.asked: list[str] = []
        test = self

        class Registry(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                test.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(test.packed)))
                self.end_headers()
                self.wfile.write(test.packed)

            def log_message(self, *words: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Registry)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.url = f"http://127.0.0.1:{server.server_port}"
        digest = base64.b64encode(hashlib.sha512(self.packed).digest()).decode()
        lock = {"version": "1.2.3", "integrity": f"sha512-{digest}"}
        packages = {"": {"name": "x"}, "node_modules/@some/thing": lock}
        (self.dir / "package-lock.json").write_text(json.dumps({"packages": packages}))
        self.only(
            *("base64", "cat", "curl", "gzip", "head", "jq", "mkdir", "openssl"),
            *("rm", "sed", "tar"),
        )

    def test_the_registry_is_that_of_the_configuration(self) -> None:
        (self.dir / ".npmrc").write_text(f"audit=false\nregistry = {self.url}/npm/\n")
        ran = self.run_here("npm-packages", str(self.dir))
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        self.assertEqual(self.asked, ["/npm/@some/thing/-/thing-1.2.3.tgz"])
        file = self.dir / "node_modules/@some/thing/index.js"
        self.assertEqual(file.read_text(), "one\n")

    def test_what_is_not_the_locked_one_is_refused(self) -> None:
        self.packed += b"\0"
        ran = self.run_here("npm-packages", str(self.dir), npm_config_registry=self.url)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("@some/thing 1.2.3 is not the locked one", ran.stderr)
        self.assertFalse((self.dir / "node_modules/@some/thing").exists())

    def test_npm_does_it_where_there_is_one(self) -> None:
        self.stub("npm")
        self.assertEqual(self.run_here("npm-packages", str(self.dir)).returncode, 0)
        self.assertIn("npm ci ", (self.dir / "called").read_text())
        self.assertEqual(self.asked, [])


class Packages(Case):
    def asked_for(self, *words: str) -> set[str]:
        command = ["make", "-s", "-n", "-C", str(HERE.parent), *words]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return set(subprocess.check_output(command, env=environment, text=True).split())

    def test_for_debian_s_nginx(self) -> None:
        packages = self.asked_for("build-deps")
        self.assertLessEqual({"gcc", "libssl-dev", "nginx", "nginx-dev"}, packages)

    def test_for_another_nginx(self) -> None:
        packages = self.asked_for("build-deps", "NGINX_SRC=/usr/src/nginx")
        self.assertLessEqual({"gcc", "make", "libssl-dev"}, packages)
        self.assertFalse({p for p in packages if "nginx" in p}, packages)

    def test_no_npm_of_debian_s(self) -> None:
        packages = self.asked_for("deps")
        self.assertLessEqual({"python3-typeshed", "llvm"}, packages)
        self.assertNotIn("npm", packages)


class SidecarUser(Case):
    def test_with_systemd(self) -> None:
        self.only("dirname")
        self.stub("systemd-sysusers", "systemd-tmpfiles", "adduser", "install")
        self.assertEqual(self.run_here("sidecar-user").returncode, 0)
        called = (self.dir / "called").read_text().splitlines()
        self.assertEqual(
            [line.split("/")[0] for line in called],
            ["systemd-sysusers ", "systemd-tmpfiles --create "],
        )

    def test_without(self) -> None:
        self.only("dirname")
        self.stub("adduser", "install")
        self.assertEqual(self.run_here("sidecar-user").returncode, 0)
        user, journal, store = (self.dir / "called").read_text().splitlines()
        self.assertRegex(user, "^adduser .*--system .*--group .* vd$")
        self.assertEqual(journal, "install -d -o www-data -g vd -m 2770 /var/spool/vd")
        self.assertEqual(store, "install -d -o vd -g vd -m 750 /var/lib/vd")


class BareRoot(Case):
    def test_where_there_can_be_none(self) -> None:
        """It says why, leaves nothing, and runs nothing."""
        self.only("dirname", "mktemp", "rm", "tail")
        for uid, why in (("1000", "only root"), ("0", "debootstrap")):
            program = self.bin / "id"
            program.write_text(f"#!/bin/sh\necho {uid}\n")
            program.chmod(0o755)
            command = ("bare-root", "bookworm", "touch", f"{self.dir}/ran")
            ran = self.run_here(*command, TMPDIR=str(self.dir))
            self.assertEqual(ran.returncode, 125)
            self.assertIn(why, ran.stderr)
            self.assertEqual(os.listdir(self.dir), ["bin"])


if __name__ == "__main__":
    unittest.main()
