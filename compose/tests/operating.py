"""What operators do to compose.prod.yaml with its scripts: other versions, backups, a machine that loses its power, a new server."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from client import Load, all_ready, eventually
from engine import ROOT, Failed, run, say

# The embedder, third in the order of a deployment, is never well with it: two services have been replaced then, and go back.
BROKEN = "HEALTHCHECK --interval=1s --retries=2 CMD ! grep -q embedder /proc/1/cmdline && riacho health"
# The gateway answers, and is never well: one that clients were sent to would take what they bring.
DEAF = "HEALTHCHECK --interval=1s --retries=5 CMD ! grep -q ingest-gateway /proc/1/cmdline && riacho health"


def migrating(command="", check="exit 4"):
    """Stands in for a version that needs another schema, whose migration does so."""
    return f'''USER root
RUN printf '%s\\n' '#!/bin/sh' 'case "$*" in "migrate --check") {check};; migrate) {command};; esac' 'exec riacho "$@"' >/usr/local/bin/gate && chmod 755 /usr/local/bin/gate
USER 10001:10001
ENTRYPOINT ["gate"]'''


def versions(run):
    """Images by their names here: a tag, and what is added to the image under test."""
    lines = {
        "second": "LABEL version=second", "broken": BROKEN, "migrating": migrating(), "failing": migrating("exit 1"),
        "deaf": migrating() + "\n" + DEAF, "endless": migrating("exec sleep 3600"), "crashing": 'ENTRYPOINT ["false"]',
        "older": migrating(check="echo the schema is at version 9, this build knows only 7\\; run a newer build; exit 4"),
    }
    return {name: (f"riacho-test/{name}:{run}", text) for name, text in lines.items()}


class Operating:
    """Steps of the story, in their order."""

    def tag(self, version):
        return self.versions[version][0]

    def step_prod_rolls_all_services_under_load(self):
        second = self.tag("second")
        # What a deployment leaves that was cut off between two containers.
        self.prod.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", "--scale", "indexer=2", "indexer")
        for image, well in ((second, True), (self.tag("broken"), False)):
            before = {service: self.prod.containers(service) for service in ("gateway", "embedder", "janitor")}
            with Load(50, 32, self.front) as load:
                eventually(lambda: load.count > 50, "the load has begun")
                done = self.prod.script("deploy.sh", image, "--without-backup", check=False)
                told = (done.stdout + done.stderr).decode()
            print("   " + told.strip().replace("\n", "\n   "))
            if (done.returncode == 0) != well:
                raise Failed(f"deploying {image} ended with {done.returncode}")
            load.check(50)
            say(f"{load.count} requests in {load.seconds:.0f} s, none lost, the slowest {load.slowest:.1f} s")
            for service, old in before.items():
                now = self.prod.containers(service)
                # Of the bad image, the janitor was replaced and replaced back, and the embedder stopped the rest.
                replaced = not set(now) & set(old)
                if replaced != (well or service == "janitor") or self.image_of(now[0]) != second or len(now) != len(old):
                    raise Failed(f"{service}: {old} became {now} with {self.image_of(now[0])}")
            if len(self.prod.containers("indexer")) != 1:
                raise Failed(f"the settings ask for one indexer, and {len(self.prod.containers('indexer'))} run")
            if self.inspect("janitor", '{{index .Config.Labels "riacho.test.own"}}') != "file":
                raise Failed("the operator's own file, which the settings name, was not read")
            if f"RIACHO_IMAGE={second}" not in self.prod.settings.read_text():
                raise Failed("the settings do not name the image in force")
            all_ready(self.front(), load.accepted)
            self.documents += load.accepted

    def image_of(self, container):
        return run("docker", "inspect", "--format", "{{.Config.Image}}", container, env=self.env).strip()

    def inspect(self, service, form):
        return run("docker", "inspect", "--format", form, self.prod.containers(service)[0], env=self.env).strip()

    def step_prod_comes_back_from_a_backup(self):
        client = self.front()
        before = [hit["document_id"] for hit in client.search("which gauge is read at noon", 10)]
        self.redis("set", "marker", self.run)
        (self.prod.folder / "backups").mkdir(exist_ok=True)
        for age, kept in ((9, False), (6, True)):
            stamp = run("date", "-u", "--date", f"{age} days ago", "+%Y%m%dT%H%M%SZ").strip()
            (self.prod.folder / "backups" / stamp).mkdir()
        (self.prod.folder / "backups/.partial-20200101T000000Z").mkdir()
        self.refuse_backups()
        backup = self.prod.script("backup.sh").split()[-1]
        if len(os.listdir(self.prod.folder / "backups")) != 2:
            raise Failed(f"seven days are kept, there are {os.listdir(self.prod.folder / 'backups')}")
        self.prod.script("health-check.sh")
        later = client.upload("later.md", "# Later\n\nAfter the backup.\n")
        self.prod.down()
        left = run("docker", "volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={self.prod.name}", env=self.env)
        if left.strip():
            raise Failed(f"not destroyed: {left}")
        self.refuse_restores(backup)
        self.prod.script("restore.sh", backup, "--yes")
        client = self.front()
        after = [hit["document_id"] for hit in client.search("which gauge is read at noon", 10)]
        if after != before or not before:
            raise Failed(f"the search found {before} before and {after} afterwards")
        all_ready(client, self.documents)
        original = client.ask("GET", f"/api/v1/documents/{self.documents[20]}/content")[2]
        if original != (ROOT / "docs/examples/station-handbook.pdf").read_bytes():
            raise Failed("the original is another one than before")
        if client.ask("GET", f"/api/v1/documents/{later}")[0] != 404:
            raise Failed("a document from after the backup is there")
        for when in ("restored", "restarted"):
            if self.redis("get", "marker") != self.run:
                raise Failed(f"Redis has lost what the backup had, once {when}")
            self.prod.compose("restart", "redis")
            eventually(lambda: self.redis("ping") == "PONG", "Redis is back")
        all_ready(client, [client.upload("new.md", "# New\n\nIt goes on.\n")])

    def refuse_backups(self):
        """Docker's client ends with 1 where it cannot reach a container, as tar does where a folder changed."""
        folder = self.prod.folder / "bin"
        folder.mkdir()
        real = shutil.which("docker", path=self.env["PATH"])
        (folder / "docker").write_text(f'#!/bin/sh\ncase "$*" in *tar\\ --create*) echo "no such container" >&2; exit 1;; esac\nexec {real} "$@"\n')
        (folder / "docker").chmod(0o755)
        env = dict(self.prod.env, PATH=f"{folder}:{self.prod.env['PATH']}")
        done = run(ROOT / "compose/scripts/backup.sh", check=False, env=env)
        if done.returncode == 0 or b"no such container" not in done.stderr:
            raise Failed(f"a backup without the objects ended with {done.returncode}: {done.stderr.decode()}")
        left = [name for name in os.listdir(self.prod.folder / "backups") if name.startswith(".partial")]
        if left:
            raise Failed(f"a backup that failed has left {left}")

    def refuse_restores(self, backup):
        """Backups that cannot be read, on a machine that has nothing to lose: what is damaged is seen before anything is begun."""
        dump = b"PGDMP" + b"x" * 1000
        archive = Path(backup, "objects.tar").read_bytes()
        cases = (("sums", {}, "is damaged"), ("no-objects", {"objects.tar": b""}, "is not a whole one"),
                 ("half", {"objects.tar": archive[:len(archive) // 2 + 100]}, "is not a whole one"), ("no-dump", {"postgres.dump": dump}, "cannot be read"))
        for name, content, words in cases:
            self.refuse_restore(self.altered(backup, name, content), words, nothing_changed=True)
        # What nobody can see before: a server that ends while it reads is noticed, and not waited for.
        self.refuse_restore(self.altered(backup, "no-redis", {"redis.rdb": b"REDIS0011" + b"x" * 1000}), "the server has ended", nothing_changed=False)

    def altered(self, backup, name, content):
        """A copy of a backup in which files have another content, with sums that fit; without one, a file that does not fit its sum."""
        folder = Path(shutil.copytree(backup, self.prod.folder / name))
        for file, data in content.items():
            (folder / file).write_bytes(data)
        if content:
            files = [line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
            (folder / "SHA256SUMS").write_text(run("sha256sum", *files, cwd=folder))
        else:
            with open(folder / "objects.tar", "ab") as file:
                file.write(b"x")
        return folder

    def refuse_restore(self, folder, words, nothing_changed, *arguments):
        done = self.prod.script("restore.sh", folder, "--yes", *arguments, check=False)
        told = (done.stdout + done.stderr).decode()
        if done.returncode == 0 or words not in told or nothing_changed != ("nothing was changed" in told and "stopping" not in told):
            raise Failed(f"restoring {folder.name} ended with {done.returncode}: {told}")

    def redis(self, *command):
        shell = 'REDISCLI_AUTH=$(sed "s/^requirepass //" /run/secrets/redis_auth) exec redis-cli "$@"'
        return self.prod.compose("exec", "-T", "redis", "sh", "-c", shell, "sh", *command).strip()

    def step_prod_does_without_a_stage(self):
        """The settings ask for none of it, and then for one of it again."""
        settings = self.prod.settings.read_text()
        self.prod.compose("stop", "extractor")
        missing = self.prod.script("health-check.sh", "--services", check=False)
        if missing.returncode != 1 or b"extractor does not run" not in missing.stdout:
            raise Failed(f"no extractor ran, and the health check said: {missing.stdout}")
        self.prod.settings.write_text(settings + "RIACHO_EXTRACTORS=0\n")
        self.prod.script("health-check.sh", "--services")
        self.prod.settings.write_text(settings)
        self.prod.compose("up", "--detach", "--wait", "--no-deps", "extractor")

    def step_prod_ends_what_a_killed_deployment_has_left(self):
        """Its migration goes on in its container, and in the server, where nobody sees it before it commits: the schema is the present one still."""
        present, state = self.image_of(self.prod.containers("gateway")[0]), self.prod.folder / "env.deployment"
        # As where the disk is full.
        state.with_name("env.deployment.new").mkdir()
        refused = self.deploy(present, False, "--without-backup")
        state.with_name("env.deployment.new").rmdir()
        if "nothing was changed" not in refused or state.exists():
            raise Failed(f"a deployment that could not be written down: {refused}")
        self.cut_off("migrating", "deploy.sh", self.tag("endless"))
        with self.left_session() as session:
            if not self.migrations():
                raise Failed("the migration has ended with its script")
            told = self.deploy(present, True)
            if "going back from it" not in told or "to the copy" in told or self.migrations():
                raise Failed(f"going back with the schema as it was left {self.migrations()}: {told}")
            if b"terminating connection" not in session.communicate(timeout=60)[1] or self.sql("SELECT to_regclass('left_over')"):
                raise Failed("the server has gone on with the migration")
        all_ready(self.front(), self.documents)

    def step_prod_takes_up_a_restore_that_was_cut_off(self):
        """While all is replaced, and before all is started."""
        present, state = self.image_of(self.prod.containers("gateway")[0]), self.prod.folder / "env.deployment"
        backup = self.prod.script("backup.sh").split()[-1]
        for phase, words in (("restoring", "doing it again"), ("restored", "before everything was started")):
            self.cut_off(phase, "restore.sh", backup, "--yes")
            if "restoring" not in self.health() or f"copy={backup}\n" not in state.read_text():
                raise Failed(f"a restore was cut off, and the health check said: {self.health()}")
            told = self.deploy(present, True, "--without-backup")
            if words not in told or ("reading the dump" in told) != (phase == "restoring") or state.exists():
                raise Failed(f"a restore that was cut off was not taken up: {told}")
            all_ready(self.front(), self.documents)

    def step_prod_stops_for_a_migration_and_goes_back_when_it_fails(self):
        """Versions with another schema: one whose migration works, one whose migration fails, and one that is not well after it."""
        first = self.tag("migrating")
        refused = self.prod.script("deploy.sh", first, "--without-backup", check=False)
        if refused.returncode == 0 or b"without a backup" not in refused.stderr:
            raise Failed(f"a migration was begun without a backup: {refused.stderr}")
        self.deploy(first, True)
        if self.image_of(self.prod.containers("gateway")[0]) != first:
            raise Failed("the image with the new schema is not in force")
        self.documents.append(self.front().upload("again.md", "# Again\n\nIt goes on.\n"))
        all_ready(self.front(), self.documents)
        for version in ("failing", "deaf"):
            # Uploads go on between the backup and the stop, and wherever somebody takes them.
            with Load(20, 8, self.front) as load:
                eventually(lambda: len(load.accepted) > 10, "the load has begun")
                told = self.deploy(self.tag(version), False)
                accepted = len(load.accepted)
                eventually(lambda: len(load.accepted) > accepted, "the load goes on")
            if f"{first} is in force again, with all documents that were accepted" not in told:
                raise Failed(f"the deployment of {version} did not go back: {told}")
            if not load.failures:
                raise Failed("nobody was refused while everything was stopped")
            # 504 for a gateway that is gone and whose address nginx knows still.
            unknown = [failure for failure in load.failures if not re.search("answered 50[234]", failure)]
            if unknown:
                raise Failed(f"while everything was stopped the front answered: {unknown[:5]}")
            front = self.front()
            lost = [document for document in load.accepted if front.ask("GET", f"/api/v1/documents/{document}")[0] == 404]
            if lost:
                raise Failed(f"{len(lost)} of {len(load.accepted)} uploads that were accepted are gone: {told}")
            say(f"{len(load.accepted)} uploads were accepted around a migration that failed, {len(load.failures)} requests refused")
            all_ready(self.front(), load.accepted)
            self.documents += load.accepted
            if self.image_of(self.prod.containers("gateway")[0]) != first:
                raise Failed("another image than before is in force")
        all_ready(self.front(), self.documents)

    def deploy(self, image, well, *arguments):
        done = self.prod.script("deploy.sh", image, *arguments, check=False)
        told = (done.stdout + done.stderr).decode()
        print("   " + told.strip().replace("\n", "\n   "))
        if (done.returncode == 0) != well:
            raise Failed(f"deploying {image} ended with {done.returncode}")
        return told

    def step_prod_takes_up_a_deployment_that_was_cut_off(self):
        """The script ends without a word, as when the machine loses its power: before the migration, and within it."""
        present, endless = self.tag("migrating"), self.tag("endless")
        self.cut_off("stopping", "deploy.sh", endless)
        self.prod.compose("stop", "janitor", "indexer", "embedder", "extractor", "gateway")
        if "was cut off" not in self.health():
            raise Failed(f"a deployment was cut off, and the health check said: {self.health()}")
        # No gateway runs, and there is a whole backup all the same.
        self.whole_backup()
        # One is started again and again.
        env = dict(self.prod.env, RIACHO_IMAGE=self.tag("crashing"))
        files = [part for name in self.prod.files for part in ("--file", ROOT / name)]
        run("docker", "compose", "--project-directory", ROOT / "compose", "--env-file", self.prod.settings, *files, "up", "--detach", "--no-deps", "gateway", env=env)
        eventually(lambda: int(self.inspect("gateway", "{{.RestartCount}}")) > 2, "the gateway ends again and again")
        self.whole_backup()
        told = self.deploy(present, True, "--without-backup")
        if "before its migration" not in told:
            raise Failed(f"what was cut off was not taken up: {told}")
        all_ready(self.front(), self.documents)

        document = self.front().upload("cut.md", "# Cut\n\nAccepted before the stop.\n")
        self.cut_off("migrating", "deploy.sh", endless)
        # As between the last two things that a deployment writes down.
        self.prod.settings.write_text(self.prod.settings.read_text().replace(f"RIACHO_IMAGE={present}\n", f"RIACHO_IMAGE={endless}\n"))
        refused = self.deploy(self.tag("second"), False)
        if "goes on with it" not in refused or self.prod.containers("gateway"):
            raise Failed(f"a third version was deployed in the middle of a migration: {refused}")
        told = self.deploy(present, True)
        if "going back from it" not in told or (self.prod.folder / "env.deployment").exists():
            raise Failed(f"what was cut off was not taken back: {told}")
        if f"RIACHO_IMAGE={present}\n" not in self.prod.settings.read_text():
            raise Failed("the settings name another image than the one in force")
        all_ready(self.front(), [document, *self.documents])
        self.documents.append(document)

        self.cut_off("migrating", "deploy.sh", endless)
        # The same version, of which the migration ends this time.
        run("docker", "tag", present, endless, env=self.env)
        with self.left_session():
            told = self.deploy(endless, True)
        if self.migrations() or "going on with it" not in told or self.image_of(self.prod.containers("gateway")[0]) != endless:
            raise Failed(f"what was cut off did not go on: {told}")
        all_ready(self.front(), self.documents)

        # After its migration: the way back is told before another deployment is noted in its place.
        self.cut_off("opening", "deploy.sh", present)
        copy = re.search("(?m)^copy=(.+)$", (self.prod.folder / "env.deployment").read_text())[1]
        told = self.deploy(self.tag("second"), True, "--without-backup")
        if f"The way back to {endless}" not in told or copy not in told:
            raise Failed(f"what was cut off after its migration was not taken up: {told}")
        all_ready(self.front(), self.documents)

    def whole_backup(self):
        backup = Path(self.prod.script("backup.sh").split()[-1])
        if self.documents[0] not in run("tar", "--list", "--file", backup / "objects.tar"):
            raise Failed("a backup lacks the objects")

    @contextlib.contextmanager
    def left_session(self):
        """What the server goes on with when the client of a migration is gone, with the lock that every migration takes."""
        text = "BEGIN; SELECT pg_advisory_lock(x'72696163686f'::bigint); CREATE TABLE left_over (); SELECT pg_sleep(3600); COMMIT"
        shell = ["docker", "exec", self.prod.containers("postgres")[0], "psql", "-U", "postgres", "-d", "riacho", "-c", text]
        session = subprocess.Popen(shell, env=self.prod.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            eventually(lambda: self.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1", "a migration is under way")
            yield session
        finally:
            session.kill()
            session.wait()

    def cut_off(self, phase, script, *arguments):
        """Ends a script as soon as it has noted a phase, and leaves what it has started."""
        script = subprocess.Popen([ROOT / "compose/scripts" / script, *arguments], env=self.prod.env, cwd=ROOT, start_new_session=True,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = self.prod.folder / "env.deployment"
        try:
            eventually(lambda: script.poll() is not None or (state.exists() and f"phase={phase}\n" in state.read_text()), f"phase {phase} is noted", 600)
            if phase == "migrating":
                eventually(self.migrations, "the migration runs")
        finally:
            os.killpg(script.pid, signal.SIGKILL)
            script.wait()

    def migrations(self):
        return run("docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={self.prod.name}",
                   "--filter", "label=com.docker.compose.service=migrate", env=self.env).split()

    def step_prod_refuses_a_backup_of_a_newer_schema(self):
        """The present image says that it knows less than the backup has."""
        backup = Path(self.prod.script("backup.sh").split()[-1])
        settings = self.prod.settings.read_text()
        self.prod.settings.write_text(settings + f"RIACHO_IMAGE={self.tag('older')}\n")
        before = self.prod.containers("gateway"), self.sql("SELECT count(*) FROM documents")
        self.refuse_restore(backup, "knows only 7", nothing_changed=True)
        if before != (self.prod.containers("gateway"), self.sql("SELECT count(*) FROM documents")):
            raise Failed("something was changed")
        # It would be stopped for in vain, and is told which copy it made.
        copy = self.prod.script("backup.sh", "--servers").split()[-1]
        self.prod.settings.write_text(settings)
        told = self.deploy(self.tag("older"), False)
        if f"RIACHO_IMAGE={self.tag('older')} in" not in told or f"restore.sh {copy} --yes" not in told or "stopping" in told:
            raise Failed(f"an older version was not refused: {told}")
        if before[0] != self.prod.containers("gateway") or (self.prod.folder / "env.deployment").exists():
            raise Failed("an older version has changed something")

    def step_prod_changes_its_passwords(self):
        """As docs/operations/security.md has it: the server, the file, the containers anew."""
        secrets, services = self.prod.folder / "secrets", ("gateway", "extractor", "embedder", "indexer", "janitor")
        logins = {"riacho_app": "database_url", "riacho_tasks": "database_janitor_url", "riacho_owner": "database_owner_url"}
        old = {name: (secrets / name).read_text() for name in (*logins.values(), "redis_auth", "redis_url")}
        fresh = {name: re.sub("[0-9a-f]{48}", os.urandom(24).hex(), text) for name, text in old.items()}
        fresh["redis_url"] = old["redis_url"].replace(old["redis_auth"].split()[1], fresh["redis_auth"].split()[1])
        for login, file in logins.items():
            self.sql(f"ALTER ROLE {login} PASSWORD '{re.search('[0-9a-f]{48}', fresh[file])[0]}'")
        for name, text in fresh.items():
            (secrets / f"{name}.new").write_text(text)
            (secrets / f"{name}.new").chmod(0o444)
            (secrets / f"{name}.new").rename(secrets / name)
        self.prod.script("compose.sh", "up", "--detach", "--wait", "--no-deps", "--force-recreate", "redis", *services)
        if self.inspect("janitor", '{{index .Config.Labels "riacho.test.own"}}') != "file":
            raise Failed("the operator's own file was not read when the passwords were changed")
        all_ready(self.front(), [self.front().upload("secret.md", "# Secret\n\nThe passwords are others now.\n"), *self.documents])
        with_old = self.prod.compose("exec", "-T", "postgres", "psql", old["database_url"].strip().replace("@postgres", "@127.0.0.1"), "-c", "SELECT 1", check=False)
        if with_old.returncode == 0 or b"password authentication failed" not in with_old.stderr:
            raise Failed(f"the old password opens the database: {with_old}")
        if self.redis("ping") != "PONG" or "NOAUTH" not in self.prod.compose("exec", "-T", "redis", "redis-cli", "-a", old["redis_auth"].split()[1], "ping"):
            raise Failed("the old password opens Redis, or the new one does not")

    def sql(self, text):
        return self.prod.compose("exec", "-T", "postgres", "psql", "-U", "postgres", "-d", "riacho", "-Atc", text).strip()

    def step_server_is_made_ready(self):
        """On a bare Debian 13, with a firewall of its own; a second run changes nothing."""
        shutil.copytree(ROOT / "compose", self.folder / "server/compose", ignore=shutil.ignore_patterns(".env", "secrets"))
        setup = "/opt/riacho/compose/scripts/server-setup.sh"
        look = "sha256sum /opt/riacho/compose/.env /opt/riacho/compose/secrets/* /etc/systemd/system/riacho-*; stat -c %a /opt/riacho/compose/secrets"
        told = run("docker", "run", "--rm", "--cap-add", "NET_ADMIN", "--env", "SSH_CONNECTION=192.0.2.1 50000 192.0.2.2 2222",
                   "--volume", f"{self.folder / 'server'}:/opt/riacho", "riacho-test/trixie", "bash", "-ec",
                   f"{setup} >&2; echo '%%'; {look}; echo '%%'; {setup} >&2; {look}; echo '%%'; docker compose version; ufw status", env=self.env)
        _, first, second, rest = told.split("%%\n")
        if first != second or first.count("\n") != 12 or not first.endswith("700\n"):
            raise Failed(f"a second run left something else behind: {told}")
        if "Status: active" not in rest or not all(f"{port}/tcp" in rest for port in (2222, 80, 443)):
            raise Failed(f"the firewall is not as it should be: {rest}")
