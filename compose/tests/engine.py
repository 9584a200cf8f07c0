"""The Docker engine of this machine: which client, whether it runs, and images without a registry of images."""

import os
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".riacho/tools/docker"
CACHE = ROOT / ".riacho/cache/images"
BASES = Path(__file__).resolve().parent / "bases"


class Failed(Exception):
    """What was expected and what was seen."""


def say(text):
    print(f"== {text}", flush=True)


def run(*command, check=True, stdin=None, timeout=1800, env=None, quiet=False, cwd=ROOT):
    """Runs a command and gives its output; its errors are shown when it fails."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, timeout=timeout, env=env, cwd=cwd, check=False)
    if check and done.returncode != 0:
        tail = "" if quiet else (done.stdout[-2000:] + done.stderr[-4000:]).decode(errors="replace")
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}\n{tail}")
    return done.stdout.decode(errors="replace") if check else done


def environment():
    """The environment of all that calls `docker`: its plugins, BuildKit, and a client that has BuildKit without another plugin."""
    env = dict(os.environ, DOCKER_CONFIG=str(TOOLS), DOCKER_BUILDKIT="1", BUILDKIT_PROGRESS="plain", DOCKER_SCAN_SUGGEST="false")
    for folder in env["PATH"].split(os.pathsep):
        client = Path(folder) / "docker"
        if not client.is_file():
            continue
        version = subprocess.run([client, "--version"], capture_output=True, text=True, check=False).stdout
        major = int(version.split("version ", 1)[1].split(".")[0]) if "version " in version else 0
        buildx = subprocess.run([client, "buildx", "version"], capture_output=True, env=env, check=False).returncode == 0
        # From version 23 on a client builds with BuildKit only where the plugin buildx is.
        if buildx or 18 < major < 23:
            env["PATH"] = folder + os.pathsep + env["PATH"]
            return env
    raise Failed("no docker client that can build with BuildKit; `setup.py compose` installs Debian's")


def start(env):
    """Starts the engine where none runs, and gives the process that the caller ends."""
    if run("docker", "info", check=False, env=env).returncode == 0:
        return None
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        raise Failed("no Docker engine answers, and only root can start one")
    say("starting the Docker engine")
    log = open(CACHE / "dockerd.log", "wb")
    engine = subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 60
    while run("docker", "info", check=False, env=env).returncode != 0:
        if engine.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"the Docker engine did not start; see {CACHE / 'dockerd.log'}")
        time.sleep(0.5)
    return engine


def has_image(name, env):
    return run("docker", "image", "inspect", name, check=False, env=env).returncode == 0


def bootstrap(suite, name, env):
    """A base image out of Debian's packages, from the mirror that this machine uses."""
    if has_image(name, env):
        return
    say(f"bootstrapping {name} from Debian's packages")
    archive = CACHE / f"{suite}.tar"
    if not archive.exists():
        fresh = CACHE / f"{suite}.tar.new"
        run("mmdebstrap", "--variant=minbase", "--include=ca-certificates", "--format=tar", "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*", suite, fresh, mirror())
        fresh.rename(archive)
    plain = f"riacho-test/{suite}-plain"
    run("docker", "import", archive, plain, env=env)
    # Builds reach the package registries through whatever this machine trusts.
    context = CACHE / f"{suite}-trust"
    context.mkdir(exist_ok=True)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", context / "ca-certificates.crt")
    (context / "Dockerfile").write_text(f"FROM {plain}\nCOPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt\n")
    run("docker", "build", "--tag", name, context, env=env)


def mirror():
    """The address of Debian's packages that apt on this machine uses."""
    targets = run("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)").splitlines()
    sites = [line.split()[0] for line in targets if "debian" in line.split()[0] and line.endswith(" main") and "security" not in line]
    if not sites:
        raise Failed("apt on this machine knows no mirror of Debian")
    return sites[0]


def rust(env):
    """The image that the Dockerfile compiles in, with the toolchain of this machine."""
    version = run("rustc", "--version").split()[1]
    name = f"rust:{version}-slim-bookworm"
    if has_image(name, env):
        return
    say(f"making {name} of this machine's toolchain")
    context = CACHE / "rust"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(run("rustc", "--print", "sysroot").strip(), context / "toolchain", symlinks=True, ignore=shutil.ignore_patterns("doc", "man"))
    (context / "Dockerfile").write_text(
        "FROM debian:bookworm-slim\n"
        "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev make\n"
        "COPY toolchain /usr/local/rust\n"
        "ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/rust/bin:/usr/local/bin:/usr/bin:/bin\n")
    run("docker", "build", "--tag", name, context, env=env)
    shutil.rmtree(context)


def servers(env):
    """Images of the servers under names of their own, as the variables of compose.yaml that name them."""
    bootstrap("trixie", "riacho-test/trixie", env)
    names = {}
    for target, variable in (("redis", "REDIS_IMAGE"), ("postgres", "POSTGRES_IMAGE"), ("nginx", "NGINX_IMAGE"), ("certbot", "CERTBOT_IMAGE")):
        names[variable] = f"riacho-test/{target}"
        run("docker", "build", "--target", target, "--build-arg", "TRIXIE=riacho-test/trixie", "--tag", names[variable], BASES, env=env)
    return names


def image(tag, env, binary="prebuilt"):
    """The image of Riacho, by the Dockerfile that everybody uses."""
    # Under the Dockerfile's own name for its base, which is on this machine then and not asked of a registry.
    bootstrap("bookworm", "debian:bookworm-slim", env)
    if binary == "compiled":
        rust(env)
    run("docker", "build", "--build-arg", f"BINARY={binary}", "--tag", tag, ".", env=env, timeout=7200)
