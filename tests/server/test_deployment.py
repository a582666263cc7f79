"""What lies in deploy/ says what the code says: commands, ports, paths, health, and how long a stop takes."""

import configparser
import json
import re
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from corpus.config import load_config
from server.cli.app import app
from server.config import ServerConfig, TandemConfig
from server.telemetry.health import ADMIN_SERVICE, SEARCH_SERVICE

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DEFAULTS = ServerConfig()
COMMANDS = typer.main.get_command(app).commands
PACKAGES = {"corpus", "retrieval", "rerank", "indexer", "server"}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


PORT, METRICS_PORT = port_of(DEFAULTS.address), port_of(DEFAULTS.metrics_address)


@pytest.fixture(scope="module")
def containerfile() -> list[tuple[str, str]]:
    """Instructions with what follows them."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(DEPLOY / "tandem.service", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def pod(manifests) -> dict:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod) -> dict:
    (container,) = pod["containers"]
    return container


def check_command(words: list[str]) -> None:
    """A sub-command that exists, with options that it has."""
    command = COMMANDS[words[0]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def settings_of(environ: dict[str, str], tmp_path: Path) -> ServerConfig:
    (tmp_path / "tandem.toml").write_text("")
    return load_config(TandemConfig, tmp_path / "tandem.toml", environ=environ).server


# the container


def test_the_container_runs_commands_that_exist_as_nobody_in_particular(containerfile):
    said = dict(containerfile)
    assert json.loads(said["ENTRYPOINT"]) == ["tandem"]
    check_command(json.loads(said["CMD"]))
    program, *words = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    assert program == "tandem"
    check_command(words)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["USER"])
    assert said["STOPSIGNAL"] == "SIGTERM"


def test_the_container_copies_every_package_and_only_what_exists(containerfile):
    sources = [rest.split()[:-1] for name, rest in containerfile if name == "COPY" and not rest.startswith("--from")]
    copied = {source for group in sources for source in group}
    assert copied >= PACKAGES | {"pyproject.toml", "constraints.txt"}
    assert [source for source in copied if not (ROOT / source).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"]} <= copied


def test_the_container_listens_where_it_says(containerfile, tmp_path):
    pairs = [pair for name, rest in containerfile if name == "ENV" for pair in rest.split()]
    config = settings_of(dict(pair.split("=", 1) for pair in pairs), tmp_path)
    assert (config.address, config.metrics_address) == (f"0.0.0.0:{PORT}", f"0.0.0.0:{METRICS_PORT}")
    assert config.admin_address == DEFAULTS.admin_address  # stays inside
    assert dict(containerfile)["EXPOSE"].split() == [str(PORT), str(METRICS_PORT)]


def test_the_container_asks_for_health_where_it_listens():
    (asked,) = [parameter.default for parameter in COMMANDS["health"].params if parameter.name == "address"]
    assert asked == DEFAULTS.address


# systemd


def test_the_unit_runs_commands_that_exist_on_the_folder_that_it_may_write(unit):
    service = unit["Service"]
    store = f"/var/lib/{service['StateDirectory']}"
    assert service["WorkingDirectory"] == store
    program, *words = service["ExecStart"].split()
    assert program == "/opt/tandem/bin/tandem"
    check_command(words)
    assert words == ["serve", store]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["ProtectSystem"] == "strict"


def test_the_unit_waits_for_the_calls_in_flight_and_does_not_repeat_a_wrong_configuration(unit):
    service = unit["Service"]
    assert int(service["TimeoutStopSec"]) > DEFAULTS.drain_timeout_s + 5
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert service["KillMode"] == "mixed"  # processes that share a port are told to stop by the first one alone
    assert service["User"] != "root"
    assert int(service["LimitNOFILE"]) >= 65_536


# Kubernetes


def test_probes_mean_what_health_means(container):
    live, ready, started = (container[f"{name}Probe"]["grpc"] for name in ("liveness", "readiness", "startup"))
    assert live == {"port": PORT}  # the process: stuck models make it unready, and do not restart it
    assert ready == started == {"port": PORT, "service": SEARCH_SERVICE}
    assert SEARCH_SERVICE != ADMIN_SERVICE


def test_the_pod_listens_where_it_says(manifests, container, tmp_path):
    config = settings_of({entry["name"]: entry["value"] for entry in container["env"]}, tmp_path)
    assert (config.address, config.metrics_address) == (f"0.0.0.0:{PORT}", f"0.0.0.0:{METRICS_PORT}")
    assert {p["name"]: p["containerPort"] for p in container["ports"]} == {"grpc": PORT, "metrics": METRICS_PORT}
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == (str(METRICS_PORT), "/metrics")
    (port,) = manifests["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (PORT, "grpc")


def test_the_pod_s_threads_fit_the_cores_that_it_asks_for(container, tmp_path):
    config = settings_of({entry["name"]: entry["value"] for entry in container["env"]}, tmp_path)
    assert config.processes * config.n_threads == int(container["resources"]["requests"]["cpu"])


def test_labels_join_service_and_pods(manifests):
    spec = manifests["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert manifests["Service"]["spec"]["selector"] == spec["selector"]["matchLabels"] == labels


def test_the_pod_is_locked_down_and_may_write_the_store_and_tmp_alone(pod, container, containerfile):
    check_command(container["args"])
    said = dict(containerfile)
    assert container["args"] == json.loads(said["CMD"])
    rights = pod["securityContext"]
    assert f"{rights['runAsUser']}:{rights['runAsGroup']}" == said["USER"]
    assert rights["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {said["VOLUME"], "/tmp"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_pod_is_given_time_to_finish(pod, container):
    sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > sleep_s + DEFAULTS.drain_timeout_s + 5


def test_the_image_is_of_this_version(container):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert container["image"] == f"tandem:{project['version']}"
