#!/usr/bin/env python3
"""Builds the image, runs compose.yaml and compose.prod.yaml on a real Docker engine, and does to them what operators do.

    make test-compose                       the whole story
    make test-compose ARGS="--compile"      compiles the binary in the image too (half an hour on two cores)

Projects, ports, volumes and folders are this run's own and are gone afterwards; base images and layers stay for the next run.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import traceback
import uuid
from pathlib import Path

import engine
from client import Client, Load, all_ready, eventually
from engine import ROOT, Failed, run, say
from operating import Operating, versions

SAMPLES = ROOT / "docs/examples"
QUESTION = "how is the water level gauge calibrated"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Project:
    """A deployment: its files, its settings, its containers."""

    def __init__(self, story, name, production):
        self.env, self.name = dict(story.env), f"{name}-{story.run}"
        self.http, self.tls = free_ports(2)
        self.folder = story.folder / name
        self.folder.mkdir()
        self.env.update(story.images, RIACHO_PROJECT=self.name, RIACHO_PULL_POLICY="never", COMPOSE_ANSI="never", COMPOSE_PROGRESS="quiet")
        self.settings = self.folder / "env"
        self.files = ["compose/compose.yaml"]
        lines = [f"RIACHO_IMAGE={story.first}", f"RIACHO_LISTEN=127.0.0.1:{self.http}"]
        if production:
            self.files.append("compose/compose.prod.yaml")
            lines += ["RIACHO_DOMAIN=riacho.test", f"RIACHO_BACKUPS={self.folder / 'backups'}", f"RIACHO_SECRETS={self.folder / 'secrets'}",
                      f"RIACHO_HTTP_LISTEN=127.0.0.1:{self.http}", f"RIACHO_HTTPS_LISTEN=127.0.0.1:{self.tls}", "RIACHO_DEPLOY_PATIENCE=180", "RIACHO_DISK_PERCENT=100",
                      "ACME_DIRECTORY=https://pebble:14000/dir", "RIACHO_CERTBOTS=0", f"RIACHO_TEXTFILES={self.folder / 'textfiles'}"]
            (self.folder / "textfiles").mkdir()
            # A file of the operator's own, named as one beside compose.yaml is.
            own = self.folder / "own.yaml"
            own.write_text("services: { janitor: { labels: { riacho.test.own: file } } }\n")
            lines.append(f"RIACHO_COMPOSE_FILES={os.path.relpath(own, ROOT / 'compose')}")
            self.files.append(own)
            self.env["RIACHO_SETTINGS"] = str(self.settings)
        self.settings.write_text("\n".join(lines) + "\n")

    def compose(self, *arguments, **options):
        files = [part for name in self.files for part in ("--file", ROOT / name)]
        return run("docker", "compose", "--project-directory", ROOT / "compose", "--env-file", self.settings, *files, *arguments,
                   env=self.env, **options)

    def script(self, name, *arguments, **options):
        return run(ROOT / "compose/scripts" / name, *arguments, env=self.env, **options)

    def containers(self, service):
        return self.compose("ps", "--quiet", service).split()

    def key(self):
        """Makes the tenant and a key, as an operator does."""
        self.compose("exec", "-T", "janitor", "riacho", "tenant", "create", "default")
        made = self.compose("exec", "-T", "janitor", "riacho", "key", "create", "--json", "--scopes", "documents:read,documents:write,search,admin")
        return json.loads(made)["secret"]

    def down(self):
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")


class Story(Operating):
    def __init__(self, options):
        self.options, self.run = options, uuid.uuid4().hex[:8]
        self.folder = Path(tempfile.mkdtemp(prefix="riacho-compose-"))
        self.env = engine.environment()
        self.first = f"riacho-test/first:{self.run}"
        # Other images, whose containers work alike or fail in one place.
        self.versions = versions(self.run)
        self.images, self.projects, self.engine = {}, [], None
        self.plain = self.prod = self.key = None
        self.documents = []

    # --- the image -----------------------------------------------------------------------------------------------

    def step_image_is_built_by_the_dockerfile(self):
        self.images = engine.servers(self.env)
        engine.image(self.first, self.env, "compiled" if self.options.compile else "prebuilt")
        size = int(run("docker", "image", "inspect", "--format", "{{.Size}}", self.first, env=self.env))
        base = int(run("docker", "image", "inspect", "--format", "{{.Size}}", "debian:bookworm-slim", env=self.env))
        say(f"the image has {size / 1e6:.0f} MB, of which its base image has {base / 1e6:.0f}")
        if size - base > 250e6:
            raise Failed("the image adds more than 250 MB to its base image")
        for tag, lines in self.versions.values():
            run("docker", "build", "--tag", tag, "-", stdin=f"FROM {self.first}\n{lines}\n".encode(), env=self.env)

    def step_image_runs_without_rights(self):
        bare = ["docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"]
        version = run(*bare, self.first, "--version", env=self.env)
        account = run(*bare, "--entrypoint", "id", self.first, "-u", env=self.env).strip()
        if not version.startswith("riacho ") or account != "10001":
            raise Failed(f"{version!r} ran as {account!r}")
        if not self.options.compile:
            inside = run(*bare, "--entrypoint", "sha256sum", self.first, "/usr/local/bin/riacho", env=self.env).split()[0]
            built = run("sha256sum", ROOT / "target/release/riacho").split()[0]
            if inside != built:
                raise Failed("the binary in the image is another one than target/release/riacho")
        # Nothing that a build needs is left in it.
        for program in ("cargo", "gcc", "python3", "pip"):
            if run(*bare, "--entrypoint", "which", self.first, program, check=False, env=self.env).returncode == 0:
                raise Failed(f"the image has {program}")

    def step_image_has_a_bill_of_materials(self):
        target = self.folder / "sbom.json"
        run(ROOT / "compose/scripts/sbom.sh", self.first, target, env=self.env)
        names = {package["name"] for package in json.loads(target.read_text())["packages"]}
        for wanted in ("libtesseract5", "libc6", *(("tokio", "fred") if self.options.compile else ())):
            if wanted not in names:
                raise Failed(f"the bill of materials lacks {wanted}")
        say(f"the bill of materials has {len(names)} packages")

    # --- compose.yaml --------------------------------------------------------------------------------------------

    def step_plain_is_up_with_one_command(self):
        self.plain = Project(self, "plain", production=False)
        self.projects.append(self.plain)
        self.plain.compose("up", "--detach", "--wait", "--wait-timeout", "300")
        self.client = Client(self.plain.http, self.plain.key())
        self.documents = [self.client.json("POST", f"/api/v1/documents?filename={sample.name}", sample.read_bytes())["id"]
                          for sample in sorted(SAMPLES.iterdir()) if sample.is_file() and sample.name != "README.md"]
        all_ready(self.client, self.documents)
        hits = self.client.search(QUESTION)
        if not hits:
            raise Failed("the search found nothing")

    def step_plain_scales_a_stage_and_survives_a_kill(self):
        self.plain.compose("up", "--detach", "--wait", "--no-recreate", "--scale", "embedder=3")
        embedders = self.plain.containers("embedder")
        if len(embedders) != 3:
            raise Failed(f"{len(embedders)} embedders run, three were asked for")

        def three_consumers():
            stages = self.client.json("GET", "/api/v1/queue/info")["stages"]
            found = next(stage["consumers"] for stage in stages if stage["stage"] == "embed")
            return found >= 3 or f"{found} consumers read the stage"
        eventually(three_consumers, "three embedders read the stage")

        documents = []
        for number in range(120):
            documents.append(self.client.upload(f"log-{number}.md", f"# Log {number}\n\n" + f"The barge number {number} passed the lock.\n\n" * 40))
            if number == 60:
                pid = int(run("docker", "inspect", "--format", "{{.State.Pid}}", embedders[0], env=self.env))
                # The container's first process, and with it all others of it: as when memory runs out.
                os.kill(pid, signal.SIGKILL)
        all_ready(self.client, documents)
        letters = self.client.json("GET", "/api/v1/queue/info")["dead_letters"]
        if letters:
            raise Failed(f"{letters} dead letters after a kill")
        eventually(lambda: self.restarted(embedders[0]), "the killed embedder is started again and healthy")

    def restarted(self, container):
        text = "{{.RestartCount}} {{.State.Health.Status}}"
        seen = run("docker", "inspect", "--format", text, container, env=self.env).split()
        return seen == ["1", "healthy"] or f"restarts and health: {seen}"

    def step_plain_is_gone(self):
        self.plain.down()

    # --- compose.prod.yaml ---------------------------------------------------------------------------------------

    def step_prod_is_up_behind_tls(self):
        self.prod = Project(self, "prod", production=True)
        self.projects.append(self.prod)
        self.prod.script("make-secrets.sh", self.prod.folder / "secrets")
        self.prod.compose("up", "--detach", "--wait", "--wait-timeout", "300", "nginx", "extractor", "embedder", "indexer", "janitor")
        self.key = self.prod.key()
        self.documents = [self.front().upload(f"page-{number}.md", f"# Page {number}\n\nThe gauge number {number} is read at noon.\n")
                          for number in range(20)]
        self.documents.append(self.front().json("POST", "/api/v1/documents?filename=handbook.pdf", (SAMPLES / "station-handbook.pdf").read_bytes())["id"])
        all_ready(self.front(), self.documents)

    def front(self):
        return Client(self.prod.tls, self.key, tls=True)

    def step_prod_keeps_its_walls(self):
        texts = [file.read_text() for file in (self.prod.folder / "secrets").iterdir()]
        secrets = {secret for text in texts for secret in re.findall("[0-9a-f]{48}", text)}
        if len(secrets) != 5:
            raise Failed(f"{len(secrets)} passwords for five logins")
        for service in ("redis", "postgres", "gateway", "extractor", "embedder", "indexer", "janitor", "nginx"):
            for container in self.prod.containers(service):
                seen = json.loads(run("docker", "inspect", container, env=self.env))[0]
                host = seen["HostConfig"]
                if not (host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and "no-new-privileges:true" in host["SecurityOpt"] and host["Memory"]):
                    raise Failed(f"{service} has a root file system to write on, capabilities, or no limit of memory")
                shown = json.dumps(seen["Config"]) + run("docker", "logs", container, env=self.env)
                if any(secret in shown for secret in secrets):
                    raise Failed(f"a secret stands in the environment or the log of {service}")
        gateway = self.prod.containers("gateway")[0]
        if run("docker", "port", gateway, env=self.env).strip():
            raise Failed("the gateway is reached past nginx")
        denied = self.prod.compose("exec", "-T", "redis", "redis-cli", "ping")
        if "NOAUTH" not in denied:
            raise Failed(f"Redis answers without a password: {denied}")

    def step_prod_front_redirects_and_sends_headers(self):
        curl = ["curl", "--silent", "--show-error", "--insecure", "--max-time", "60", "--resolve", f"riacho.test:{self.prod.tls}:127.0.0.1"]
        plain = run(*curl, "--include", f"http://127.0.0.1:{self.prod.http}/health", "--header", "Host: riacho.test")
        if " 301 " not in plain.splitlines()[0] or "https://riacho.test/health" not in plain:
            raise Failed(f"plain HTTP is not redirected: {plain}")
        answer = run(*curl, "--http2", "--include", f"https://riacho.test:{self.prod.tls}/readyz")
        lines = answer.lower()
        wanted = ("http/2 200", "strict-transport-security: max-age=", "x-content-type-options: nosniff", "x-frame-options: deny",
                  "referrer-policy: no-referrer", "content-security-policy: ")
        missing = [text for text in wanted if text not in lines]
        if missing:
            raise Failed(f"the front does not send {missing}: {answer}")
        # A page's own policy is the only one, and what the gateway sends already is not sent twice.
        page = run(*curl, "--include", f"https://riacho.test:{self.prod.tls}/docs").lower()
        if "style-src 'self'" not in page or page.count("content-security-policy:") != 1 or page.count("x-content-type-options:") != 1:
            raise Failed(f"the headers of a page: {page[:1500]}")
        for path, status in (("/metrics", 404), ("/api/v1/documents", 401)):
            seen = Client(self.prod.tls, tls=True).ask("GET", path)[0]
            if seen != status:
                raise Failed(f"{path} answered {seen} to somebody without a key")

    def step_prod_takes_long_uploads(self):
        line = "The level of the river at the gauge was measured at noon and written down.\n"
        large = ("# Levels\n\n" + line * (40_000_000 // len(line))).encode()
        front = self.front()
        answer = front.json("POST", "/api/v1/documents?filename=large.txt&lane=background", large, headers={"Content-Type": "text/plain"})
        size = len(front.ask("GET", f"/api/v1/documents/{answer['id']}/content")[2])
        if size != len(large):
            raise Failed(f"{len(large)} bytes were sent and {size} kept")
        front.ask("DELETE", f"/api/v1/documents/{answer['id']}")
        status, headers, body = front.ask("POST", "/api/v1/documents?filename=huge.txt", b"x" * (101 << 20))
        if status != 413 or headers.get("Content-Type") != "application/problem+json":
            raise Failed(f"101 MiB were answered with {status}: {body[:200]}")
        lines = "".join(json.dumps({"filename": f"bulk-{number}.txt", "text": f"Line {number} of many."}) + "\n" for number in range(300))
        status, _, body = front.ask("POST", "/api/v1/documents/bulk", lines.encode(), headers={"Content-Type": "application/x-ndjson"})
        taken = [json.loads(line).get("document", {}).get("id") or json.loads(line).get("id") for line in body.splitlines()]
        if status != 200 or sum(1 for one in taken if one) != 300:
            raise Failed(f"300 documents in one request were answered with {status}: {body[-500:]}")

    def step_prod_front_sends_events_at_once(self):
        """The front's own files, before a program that sends a second event only when the client has the first."""
        network, names = f"events-{self.run}", [f"events-{self.run}-{part}" for part in ("gateway", "front")]
        program = Path(__file__).with_name("events.py")
        port = free_ports(1)[0]
        run("docker", "network", "create", network, env=self.env)
        try:
            run("docker", "run", "--detach", "--name", names[0], "--network", network, "--network-alias", "gateway", "--volume",
                f"{program}:/events.py:ro", "--entrypoint", "python3", self.images["CERTBOT_IMAGE"], "/events.py", env=self.env)
            run("docker", "run", "--detach", "--name", names[1], "--network", network, "--publish", f"127.0.0.1:{port}:8443", "--volume",
                f"{ROOT / 'compose/nginx'}:/etc/nginx:ro", "--env", "RIACHO_DOMAIN=riacho.test", self.images["NGINX_IMAGE"],
                "/bin/sh", "/etc/nginx/start.sh", env=self.env)
            eventually(lambda: Client(port, tls=True).ask("GET", "/")[0] == 200, "the front answers")
            connection = Client(port, tls=True).open()
            connection.request("GET", "/api/v1/documents/1/events", headers={"Host": "riacho.test"})
            answer = connection.getresponse()
            if answer.readline() != b"data: first\n":
                raise Failed("the first event did not come")
            Client(port, tls=True).ask("POST", "/go", b"")
            if b"data: second\n" not in (answer.readline(), answer.readline()):
                raise Failed("the second event did not come")
        finally:
            run("docker", "rm", "--force", "--volumes", *names, check=False, env=self.env)
            run("docker", "network", "rm", network, check=False, env=self.env)

    def step_prod_takes_the_next_certificate(self):
        """certbot asks an authority of the test's own, and nginx takes what it brings without losing a connection."""
        before = self.certificate()
        network = f"{self.prod.name}_edge"
        name = f"pebble-{self.run}"
        folder = self.folder / "pebble"
        folder.mkdir()
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=pebble",
            "-addext", "subjectAltName=DNS:pebble", "-keyout", folder / "key.pem", "-out", folder / "cert.pem")
        (folder / "config.json").write_text(json.dumps({"pebble": {
            "listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000", "certificate": "/pebble/cert.pem",
            "privateKey": "/pebble/key.pem", "httpPort": 8080, "tlsPort": 8443, "ocspResponderURL": "", "externalAccountBindingRequired": False,
            "certificateValidityPeriod": 90 * 86400}}))
        (self.folder / "authority.yaml").write_text(
            "services:\n  nginx:\n    networks: { edge: { aliases: [riacho.test] } }\n    environment: { RIACHO_TLS_LOOK_SECONDS: '1' }\n"
            f"  certbot:\n    environment: {{ REQUESTS_CA_BUNDLE: /pebble.pem }}\n    volumes: ['{folder}/cert.pem:/pebble.pem:ro']\n")
        self.prod.files.append(self.folder / "authority.yaml")
        self.prod.env["RIACHO_CERTBOTS"] = "1"
        self.certificate_is_complained_of("one that the front made itself", provisional=1)
        run("docker", "run", "--detach", "--name", name, "--network", network, "--network-alias", "pebble", "--volume", f"{folder}:/pebble:ro",
            "--env", "PEBBLE_VA_NOSLEEP=1", "--entrypoint", "pebble", self.images["CERTBOT_IMAGE"], "-config", "/pebble/config.json", env=self.env)
        try:
            self.prod.compose("up", "--detach", "--wait", "nginx", "certbot")
            eventually(lambda: self.certificate() not in (before, "") or run("docker", "logs", self.prod.containers("certbot")[0], env=self.env)[-300:],
                       "nginx serves the authority's certificate", 180)
        finally:
            run("docker", "rm", "--force", "--volumes", name, check=False, env=self.env)
        if "Pebble" not in self.certificate():
            raise Failed(f"the certificate is from {self.certificate()}")
        # It has 90 days; 15 days before its end it should have been renewed long ago.
        if "certificate" in self.health() or self.textfile()["riacho_certificate_provisional"] != 0:
            raise Failed(f"the health check of a certificate in order said: {self.health()}")
        self.prod.env["PATH"], path = f"{self.later(days=75)}:{self.prod.env['PATH']}", self.prod.env["PATH"]
        self.certificate_is_complained_of("the certificate ends on", provisional=0)
        self.prod.env["PATH"] = path
        # Asked again, certbot keeps it: it has most of its time left.
        again = self.prod.compose("exec", "-T", "certbot", "certbot", "renew", "--webroot-path", "/var/www/acme", "--no-random-sleep-on-renew")
        self.prod.compose("rm", "--stop", "--force", "certbot")
        if "certbot does not run" not in self.health():
            raise Failed(f"nobody renews the certificate, and the health check said: {self.health()}")
        self.prod.env["RIACHO_CERTBOTS"] = "0"
        self.prod.files.pop()

    def health(self):
        return self.prod.script("health-check.sh", check=False).stdout.decode()

    def textfile(self):
        text = (self.prod.folder / "textfiles/riacho_certificate.prom").read_text()
        return {name: int(value) for name, value in (line.split() for line in text.splitlines() if not line.startswith("#"))}

    def later(self, days):
        """A folder with a `date` that takes the present for so many days later."""
        folder = self.folder / "clock"
        folder.mkdir()
        (folder / "date").write_text(f'#!/bin/sh\n[ "$*" = +%s ] && exec /bin/date --date "{days} days" +%s\nexec /bin/date "$@"\n')
        (folder / "date").chmod(0o755)
        return folder

    def certificate_is_complained_of(self, words, provisional):
        told, shown = self.health(), self.textfile()
        served = run("openssl", "s_client", "-connect", f"127.0.0.1:{self.prod.tls}", "-servername", "riacho.test", stdin=b"", check=False).stdout
        end = run("openssl", "x509", "-noout", "-enddate", stdin=served).strip().split("=")[1]
        wanted = {"riacho_certificate_provisional": provisional, "riacho_certificate_not_after_timestamp_seconds": int(run("date", "--date", end, "+%s"))}
        if words not in told or not wanted.items() <= shown.items():
            raise Failed(f"the health check said {told!r}, and for Prometheus {shown}, not {wanted}")

    def certificate(self):
        shown = run("openssl", "s_client", "-connect", f"127.0.0.1:{self.prod.tls}", "-servername", "riacho.test", stdin=b"", check=False)
        issuer = run("openssl", "x509", "-noout", "-issuer", "-serial", stdin=shown.stdout, check=False)
        return issuer.stdout.decode()

    def step_prod_memory_with_fifty_clients(self):
        with Load(50, 50, self.front) as load:
            eventually(lambda: load.count >= 1500 or f"{load.count} requests", "half a minute of load", 900)
            table = run("docker", "stats", "--no-stream", "--format", "{{.Name}}\t{{.MemUsage}}", env=self.env)
        load.check(1500)
        rows = [line.replace(f"{self.prod.name}-", "") for line in table.splitlines() if line.startswith(self.prod.name)]
        say(f"memory with 50 clients, {load.count / load.seconds:.0f} requests a second, the slowest {load.slowest:.1f} s:")
        print("\n".join(f"   {row}" for row in sorted(rows)))
        all_ready(self.front(), load.accepted)

    # --- running it ----------------------------------------------------------------------------------------------

    def close(self):
        for project in self.projects:
            project.down()
        run("docker", "image", "rm", "--force", self.first, *(tag for tag, _ in self.versions.values()), check=False, env=self.env)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.engine:
            self.engine.terminate()
            self.engine.wait(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="compile the binary in the image instead of taking target/release/riacho")
    parser.add_argument("--skip", default="", metavar="TEXT,..", help="leave out the steps whose names have one of these in them")
    options = parser.parse_args()
    engine.CACHE.mkdir(parents=True, exist_ok=True)
    story = Story(options)
    skip = [text for text in options.skip.split(",") if text]
    steps = [name for part in (Story, Operating) for name in vars(part) if name.startswith("step_") and not any(text in name for text in skip)]
    passed = 0
    try:
        story.engine = engine.start(story.env)
        for name in steps:
            say(name.removeprefix("step_").replace("_", " "))
            getattr(story, name)()
            passed += 1
    except BaseException:  # cleaned up, whatever it was
        traceback.print_exc()
        for project in story.projects:
            done = project.compose("logs", "--no-color", "--tail", "15", check=False)
            print(done.stdout.decode(errors="replace")[-8000:], file=sys.stderr)
    finally:
        story.close()
    print(f"{passed} passed, {len(steps) - passed} failed")
    return 0 if passed == len(steps) else 1


if __name__ == "__main__":
    sys.exit(main())
