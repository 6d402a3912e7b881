"""deploy/: the files are what compose and Kubernetes take, give nobody more than needed, and the
very command lines in them run to the end."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from locust_driver import Driver
from ruamel.yaml import YAML

from loadlib import scenario as scenarios

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)


@cache
def compose() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(DEPLOY / "compose.yaml")


@cache
def manifests() -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(DEPLOY / "kubernetes.yaml"))


def one(kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [m for m in manifests() if m["kind"] == kind and name in m["metadata"]["name"]]
    return found


def pods() -> dict[str, dict[str, Any]]:
    work = {"master": one("Job"), "worker": one("Deployment")}
    return {role: found["spec"]["template"]["spec"] for role, found in work.items()}


def env(text: str) -> str:
    """`${WORKERS:-2}` as compose reads it where the variable is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))


# -- what they are ---------------------------------------------------------------------------------


def test_compose_takes_it():
    spec = importlib.util.find_spec("check_jsonschema")  # found, not imported
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.validate(compose(), schema)
    spoilt = {**compose(), "services": {"master": {"comand": []}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, schema)


def test_kubernetes_takes_them():
    """Its schemas are 70 MB: no part of a development install. What follows asks the rest."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for manifest in manifests():
        validate.validate(manifest, "1.32", strict=True)


def test_a_manifest_says_what_it_is_and_refers_to_what_there_is():
    kinds = [(m["kind"], m["apiVersion"]) for m in manifests()]
    assert kinds == [
        ("ConfigMap", "v1"), ("PersistentVolumeClaim", "v1"), ("Service", "v1"),
        ("Job", "batch/v1"), ("Deployment", "apps/v1"),
        ("NetworkPolicy", "networking.k8s.io/v1"), ("NetworkPolicy", "networking.k8s.io/v1"),
    ]  # fmt: skip
    assert all(m["metadata"]["labels"]["app"] == "loadlib" for m in manifests())
    for role, pod in pods().items():
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert one("Job" if role == "master" else "Deployment")["spec"]["template"]["metadata"][
            "labels"
        ] == {"app": "loadlib", "role": role}
    selects = one("Service")["spec"]["selector"]
    assert selects == one("Job")["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["port"] for port in one("Service")["spec"]["ports"]}
    assert ports == {"workers": 5557, "web": 8089}
    named = {p["name"]: p["containerPort"] for p in pods()["master"]["containers"][0]["ports"]}
    assert named == ports
    claims = [
        v["persistentVolumeClaim"] for v in pods()["master"]["volumes"] if "persist" in str(v)
    ]
    assert claims == [{"claimName": one("PersistentVolumeClaim")["metadata"]["name"]}]


def test_the_master_waits_for_as_many_workers_as_there_are():
    line = pods()["master"]["containers"][0]["args"]
    assert int(line[line.index("--expect-workers") + 1]) == one("Deployment")["spec"]["replicas"]
    line = compose()["services"]["master"]["command"]
    expected = line[line.index("--expect-workers") + 1]
    assert expected == compose()["services"]["worker"]["deploy"]["replicas"] == "${WORKERS:-2}"


def test_the_scenarios_are_scenarios_and_their_hosts_are_private():
    from loadlib.catalog import is_public, resolve

    texts = [(DEPLOY / "scenario.yaml").read_text(), one("ConfigMap")["data"]["scenario.yaml"]]
    for text in texts:
        scenario = scenarios.parse(text)
        assert not [model for model in scenario.models if is_public(resolve(model).host)]
    (alias,) = compose()["services"]["simulator"]["networks"]["load"]["aliases"]
    assert f"http://{alias}:" in texts[0]


# -- what they may ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["master", "worker", "simulator"])
def test_a_service_gets_no_more_than_it_needs(name):
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    unwanted = {
        "ports",
        "privileged",
        "network_mode",
        "pid",
        "ipc",
        "devices",
        "user",
        "environment",
    }
    assert not unwanted & service.keys()  # nothing is published; the image's user is not root
    assert service.get("env_file", []) in ([], [{"path": "keys.env", "required": False}])
    writable = [v["target"] for v in service.get("volumes", ()) if not v.get("read_only")]
    assert writable == ([] if name == "simulator" else ["/reports"])


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_pod_gets_no_more_than_it_needs(role):
    pod = pods()[role]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} == container["resources"]["requests"].keys()
    assert container["resources"]["limits"].keys() == {"memory"}  # a CPU quota would spoil figures
    assert "hostNetwork" not in pod
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/reports", "/tmp"}


def test_secrets_stand_there_by_reference_only():
    assert not [m for m in manifests() if m["kind"] == "Secret"]
    for pod in pods().values():
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "loadlib-keys", "optional": True}}]
        assert "env" not in container
    example = (DEPLOY / "keys.env.example").read_text().splitlines()
    named = [line.partition("=") for line in example if line and not line.startswith("#")]
    assert named
    assert all(SECRET.search(name) and not value for name, _, value in named)
    assert "/deploy/*.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "!deploy" not in (ROOT / ".dockerignore").read_text()  # nor does an image hold them


def test_only_workers_reach_the_masters_port():
    policy = one("NetworkPolicy", "master")["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app": "loadlib", "role": "master"}
    assert policy["policyTypes"] == ["Ingress"]
    (workers,) = [r for r in policy["ingress"] if r["ports"] == [{"protocol": "TCP", "port": 5557}]]
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert workers["from"] == [{"podSelector": {"matchLabels": labels}}]
    assert all(rule["from"] for rule in policy["ingress"])
    closed = one("NetworkPolicy", "worker")["spec"]
    assert "ingress" not in closed
    assert closed["podSelector"]["matchLabels"] == labels


def test_the_image_runs_as_nobody_and_holds_pinned_packages():
    text = (DEPLOY / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:3\.\d+-slim", base) for base in bases)  # no registry's host
    uid = re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert uid == [("10001", "10001")]
    installs = text.replace("\\\n", " ").split("/pip install")[1:]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line and "--only-binary :all:" in line for line in installs)
    assert 'ENTRYPOINT ["loadlib"]' in text
    for role, pod in pods().items():
        assert pod["containers"][0]["image"] == compose()["services"][role]["image"] == "loadlib"


# -- that they run ---------------------------------------------------------------------------------

SHORT = {"duration: 60s": "duration: 3s"}


def lines() -> dict[str, list[str]]:
    """Role → its command line in compose, as it stands there."""
    services = compose()["services"]
    return {role: [env(word) for word in services[role]["command"]] for role in services}


def healthy(service: str, port: str, here: str) -> bool:
    """What a service's health check says; only its port is another."""
    (_, _, *probe) = compose()["services"][service]["healthcheck"]["test"]
    assert port in probe[1]
    check = [sys.executable, probe[0], probe[1].replace(port, here)]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_compose_and_kubernetes_run_the_same():
    """But for the name under which each finds the master."""
    for role, pod in pods().items():
        args = pod["containers"][0]["args"]
        assert ["master" if word == "loadlib-master" else word for word in args] == lines()[role]
    assert one("Service")["metadata"]["name"] == "loadlib-master"
    assert "master" in compose()["services"]


@pytest.mark.slow
def test_the_command_lines_run_to_the_end(tmp_path):
    """As processes of this machine: paths and host names are its own, all else is as written."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    here = {
        "master": "127.0.0.1", "0.0.0.0": "127.0.0.1", "8400": port, "/reports": "reports",
        "/scenarios/scenario.yaml": "scenario.yaml",
    }  # fmt: skip
    text = (DEPLOY / "scenario.yaml").read_text()
    for old, new in {"simulator.local:8400": f"127.0.0.1:{port}", **SHORT}.items():
        assert old in text
        text = text.replace(old, new)
    driver = Driver(tmp_path, f"http://127.0.0.1:{port}/v1")
    try:
        driver.write("scenario.yaml", text)
        said = {
            role: ["loadlib", *(here.get(w, w) for w in line)] for role, line in lines().items()
        }
        # In a process of its own from the start: warm ones have what the simulator must not have.
        simulator = driver.start(sys.executable, "-m", *said["simulator"])
        simulator.until(lambda: healthy("simulator", "8400", port))  # as compose waits for it
        master = driver.start(*said["master"])
        meet = master.env["LOCUST_MASTER_BIND_PORT"]
        master.until(lambda: healthy("master", "5557", meet))
        workers = [driver.start(*said["worker"], LOCUST_MASTER_NODE_PORT=meet) for _ in range(2)]
        ended = master.wait()
        assert ended.code in (0, 7), ended.err  # this machine may be too busy to be believed
        assert [worker.wait().code for worker in workers] == [0, 0]
    finally:
        driver.close()
    found = ended.requests(model="gpt-4o-mini")
    assert found["scheduled"] == found["sent"] == found["ok"] == len(ended.rows)
    assert len(list((ended.folder / "shards").iterdir())) == 2
    assert found["sent"] > 30
    checks = {check["name"]: check["value"] for check in ended.summary["health"]["checks"]}
    assert checks["lost_samples"] == checks["sequence_gaps"] == 0
    assert ended.summary["environment"]["argv"][1] == "run"
