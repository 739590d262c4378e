"""What an administrator installs: units, configuration, mount helper, container."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SCRIPTS = [DEPLOY / name for name in ("install", "mount.quicfs", "certbot-hook")]
PROGRAM = "/usr/local/bin/quicfs"

# What `systemd-analyze security` may find at most, in tenths of its points (0 to 100).
EXPOSURE = {"quicfs-agent.service": 5, "quicfs-server@.service": 20}


def call(*command: str | Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **kwargs)


def commands(unit: Path) -> list[list[str]]:
    """Each Exec line of a unit in words."""
    lines = re.findall(r"^Exec(?:Start|StartPost|Stop|Reload)=(.*)$", unit.read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.fixture
def units(tmp_path: Path) -> Iterator[list[Path]]:
    """The units with a program that exists on this machine, as `verify` wants it."""
    folder = tmp_path / "units"
    folder.mkdir()
    program = tmp_path / "quicfs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS:
        (folder / unit.name).write_text(unit.read_text().replace(PROGRAM, str(program)))
    yield sorted(folder.iterdir())


def test_units_are_clean(require, units: list[Path]) -> None:
    require("systemd-analyze")
    # A template is verified as one of its instances.
    names = [str(unit).replace("@.service", "@projects.service") for unit in units]
    for unit, name in zip(units, names, strict=True):
        if str(unit) != name:
            os.symlink(unit.name, name)
    verified = call("systemd-analyze", "verify", "--man=no", *names)
    ours = [line for line in verified.stderr.splitlines() if "quicfs" in line]
    assert not ours, ours
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_sandboxed(require, unit: Path) -> None:
    require("systemd-analyze")
    threshold = EXPOSURE[unit.name]
    judged = call(
        "systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={threshold}", unit
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_give_options_that_exist(unit: Path) -> None:
    ours = [words[1:] for words in commands(unit) if words[0] == PROGRAM]
    assert ours, f"{unit.name} does not start {PROGRAM}"
    for command, *arguments in ours:
        shown = call(sys.executable, "-m", "quicfs", command, "--help")
        assert shown.returncode == 0, shown.stderr
        known = set(re.findall(r"--[a-z][a-z-]*", shown.stdout))
        assert {word.partition("=")[0] for word in arguments if word.startswith("--")} <= known


def test_units_and_users_agree() -> None:
    names = {
        words[1]
        for line in (DEPLOY / "sysusers.conf").read_text().splitlines()
        if (words := line.split()) and words[0] in "ug"
    }
    for unit in UNITS:
        parser = RawConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(unit)
        service = parser["Service"]
        assert {service["User"], service["Group"], *service["SupplementaryGroups"].split()} <= names


def test_the_server_may_use_openat2() -> None:
    """systemd's filter for set-ID bits answers every openat2(2) with ENOSYS, and is on by default with some
    other settings."""
    server = (DEPLOY / "systemd/quicfs-server@.service").read_text()
    assert "\nRestrictSUIDSGID=no\n" in server and "DynamicUser=" not in server


def test_users_and_folders_are_made(require, tmp_path: Path) -> None:
    require("systemd-sysusers", "systemd-tmpfiles", "root")
    (tmp_path / "etc").mkdir()
    made = call("systemd-sysusers", f"--root={tmp_path}", DEPLOY / "sysusers.conf")
    assert made.returncode == 0, made.stderr
    users = {
        line.split(":")[0]: line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()
    }
    assert {"quicfs", "quicfs-agent"} <= users.keys()
    made = call("systemd-tmpfiles", "--create", f"--root={tmp_path}", DEPLOY / "tmpfiles.conf")
    assert made.returncode == 0, made.stderr
    keys = (tmp_path / "etc/quicfs/tls").stat()
    assert keys.st_mode & 0o7777 == 0o750 and keys.st_uid == 0
    assert keys.st_gid == int(users["quicfs-agent"][3])
    state = (tmp_path / "var/lib/quicfs").stat()
    assert state.st_mode & 0o7777 == 0o700 and state.st_uid == int(users["quicfs"][2])


def test_example_of_the_agent() -> None:
    from quicfs.handshake_agent.config import load_config

    config = load_config(DEPLOY / "etc/agent.toml")
    assert f"--socket {config.socket}" in (DEPLOY / "systemd/quicfs-agent.service").read_text()
    assert f"--agent {config.socket}" in (DEPLOY / "systemd/quicfs-server@.service").read_text()
    assert str(config.server.private_key) == "/etc/quicfs/tls/server.key"
    # What is commented out must be right as well.
    text = (DEPLOY / "etc/agent.toml").read_text()
    from quicfs.handshake_agent.config import parse_config

    parse_config(re.sub(r"^# (?=x509|client_cert|\[)", "", text, flags=re.MULTILINE))


def test_example_of_a_server(tmp_path: Path) -> None:
    text = (DEPLOY / "etc/server.toml").read_text()
    full = re.sub(r"^# (?=[a-z-]+ = )", "", text, flags=re.MULTILINE)
    assert set(tomllib.loads(full)["serve"]) >= {"directory", "listen", "users", "guest", "read-only"}
    config = tmp_path / "server.toml"
    for content in (text, full):
        # The file is read before the folder is looked at, so a wrong key would be what it complains of.
        config.write_text(content.replace("/srv/projects", str(tmp_path / "missing")))
        served = call(sys.executable, "-m", "quicfs", "serve", "--config", config)
        assert served.returncode == 1 and "missing" in served.stderr, served.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert call("sh", "-n", script).returncode == 0
    if shutil.which("shellcheck"):
        checked = call("shellcheck", script)
        assert checked.returncode == 0, checked.stdout


def test_install_into_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        installed = call(DEPLOY / "install", "--destdir", tmp_path, "--no-program")
        assert installed.returncode == 0, installed.stderr
        (tmp_path / "etc/quicfs/agent.toml").write_text("# mine")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found >= {
        "etc/systemd/system/quicfs-agent.service",
        "etc/systemd/system/quicfs-server@.service",
        "usr/lib/sysusers.d/quicfs.conf",
        "usr/lib/tmpfiles.d/quicfs.conf",
        "usr/lib/sysctl.d/60-quicfs.conf",
        "sbin/mount.quicfs",
        "usr/local/lib/quicfs/certbot-hook",
        "etc/quicfs/server.toml",
        "usr/local/share/doc/quicfs/deploy.md",
    }
    assert os.access(tmp_path / "sbin/mount.quicfs", os.X_OK)
    assert (tmp_path / "etc/quicfs/agent.toml").read_text() == "# mine"
    assert call(DEPLOY / "install", "--nonsense").returncode == 2


@pytest.fixture
def recorder(tmp_path: Path) -> dict[str, str]:
    """An environment whose `quicfs` writes its arguments, a line each."""
    program = tmp_path / "bin/quicfs"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def test_mount_helper(recorder: dict[str, str]) -> None:
    helper = DEPLOY / "mount.quicfs"
    url = "smb+quic://alice@host:8443/share"
    run = call(
        helper, url, "/mnt/my share", "-v", "-n", "-o",
        "rw,noatime,_netdev,ca=/etc/ca file.pem,attr_timeout=5,x-systemd.automount,password_file=/p,*", "-t", "quicfs",
        env=recorder,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "mount", "--verbose", "--ca", "/etc/ca file.pem", "--password-file", "/p",
        "--options", "rw,attr_timeout=5,*", "--", url, "/mnt/my share",
    ]  # fmt: skip
    plain = call(helper, url, "/mnt", env=recorder)
    assert plain.stdout.splitlines() == ["mount", "--", url, "/mnt"]
    assert call(helper, url, "/mnt", "-r", env=recorder).stdout.splitlines()[1:3] == ["--options", "ro"]
    assert call(helper, url, "/mnt", "-f", env=recorder).stdout == ""
    for nfs in ("nfs+quic://host/export", "nfs://host:8443/"):
        assert call(helper, nfs, "/mnt", env=recorder).stdout.splitlines() == ["mount", "--", nfs, "/mnt"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("smb://h/s",),
        ("//host/share", "/mnt"),
        ("smb://h/s", "/mnt", "-N", "x"),
        ("smb://h/s", "/mnt", "-q"),
    ],
)
def test_mount_helper_refuses(recorder: dict[str, str], arguments: tuple[str, ...]) -> None:
    run = call(DEPLOY / "mount.quicfs", *arguments, env=recorder)
    assert run.returncode == 1 and run.stderr and not run.stdout


def test_renewed_certificate(tmp_path: Path) -> None:
    lineage, tls, bin_ = tmp_path / "live", tmp_path / "tls", tmp_path / "bin"
    for folder in (lineage, tls, bin_):
        folder.mkdir()
    (lineage / "privkey.pem").write_text("key")
    (lineage / "fullchain.pem").write_text("chain")
    # The group exists on an installed machine only.
    real = shutil.which("install")
    (bin_ / "install").write_text(f'#!/bin/sh\n[ "$3" = -g ] && exec {real} "$1" "$2" "$5" "$6"\n')
    (bin_ / "install").chmod(0o755)
    env = {"PATH": f"{bin_}:{os.environ['PATH']}", "QUICFS_TLS": str(tls), "RENEWED_LINEAGE": str(lineage)}
    run = call(DEPLOY / "certbot-hook", env=env)
    assert run.returncode == 0, run.stderr
    assert {path.name: path.read_text() for path in tls.iterdir()} == {
        "server.key": "key",
        "server.pem": "chain",
    }
    assert (tls / "server.key").stat().st_mode & 0o777 == 0o640
    assert call(DEPLOY / "certbot-hook", env={"PATH": env["PATH"]}).returncode != 0


def test_every_package_is_installed() -> None:
    """An editable installation works without this, and any other does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    links = [ROOT / "quicfs", *(path for path in (ROOT / "quicfs").iterdir() if path.is_symlink())]
    found = set()
    for link in links:
        for init in link.resolve().rglob("__init__.py"):
            below = init.parent.relative_to(link.resolve())
            found.add(".".join([*link.relative_to(ROOT).parts, *below.parts]))
    assert found == listed


def test_container_has_every_package() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in project["tool"]["setuptools"]["packages"]:
        below = package.split(".")[1:2]
        folder = below[0] if below and (ROOT / "quicfs" / below[0]).is_symlink() else "quicfs"
        assert f"COPY {folder} {folder}\n" in text, folder
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert "[" in source or (ROOT / source).exists(), source
    assert "EXPOSE 443/udp" in text and "USER quicfs" in text
