# SPDX-License-Identifier: Apache-2.0
"""accessCredentials by the guest agent: keys and passwords of mounted secrets, in a real guest, and again when they change."""
import os

import pytest
from vmlet_lab import vmi, wait_until

KEYS = {n: f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFake{n} user{n}@example" for n in range(4)}


def mount(pod, name, **keys):
    """A secret as kubelet mounts it: files are links into ..data, which is a link that is replaced at an update."""
    directory = pod.private / "secret" / f"{name}-access-cred"
    directory.mkdir(parents=True, exist_ok=True)
    stamp = f"..{len(list(directory.iterdir()))}_{os.urandom(4).hex()}"
    (directory / stamp).mkdir()
    for key, value in keys.items():
        (directory / stamp / key).write_text(value)
    (directory / "..data_tmp").symlink_to(stamp)
    os.rename(directory / "..data_tmp", directory / "..data")
    for key in keys:
        if not (directory / key).is_symlink():
            (directory / key).symlink_to(f"..data/{key}")


def manifest():
    spec = vmi()
    ssh = {"propagationMethod": {"qemuGuestAgent": {"users": ["root"]}}}
    spec["spec"]["accessCredentials"] = [
        {"sshPublicKey": {"source": {"secret": {"secretName": "keys"}}, **ssh}},
        {"sshPublicKey": {"source": {"secret": {"secretName": "more"}}, **ssh}},
        {"userPassword": {"source": {"secret": {"secretName": "pass"}}, "propagationMethod": {"qemuGuestAgent": {}}}},
    ]
    return spec


def start(pod, spec):
    pod.start()
    client, watcher = pod.client(), pod.client()
    watcher.ok("Subscribe", **{"from": 1})
    client.ok("SyncVirtualMachine", vmi=spec)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    return client, watcher


def in_guest(client, command):
    result = client.ok("Exec", Command="/bin/sh", Args=["-c", command], timeoutSeconds=60)
    assert result["exitCode"] == 0, result
    return result["stdOut"]


def keys_in(client):
    return in_guest(client, "cat /root/.ssh/authorized_keys").splitlines()


def metadata(client):
    return client.ok("GetDomain")["domain"]["Spec"]["Metadata"]["KubeVirt"].get("AccessCredential")


def test_keys_and_passwords_come_into_the_guest_and_follow_the_secrets(pod):
    mount(pod, "keys", one=KEYS[0] + "\n", two=f"# a comment\n{KEYS[1]}\n")
    mount(pod, "more", three=KEYS[2])
    mount(pod, "pass", root="first secret\n")
    client, watcher = start(pod, manifest())
    event = watcher.event(lambda e: e["reason"].startswith("AccessCredentials"))
    assert event["reason"] == "AccessCredentialsSyncSuccess", event
    assert metadata(client) == {"Succeeded": True, "Message": ""}
    assert sorted(keys_in(client)) == [KEYS[0], KEYS[1], KEYS[2]]
    shadow = in_guest(client, "grep ^root: /etc/shadow").split(":")[1]
    salt = shadow.split("$")[2]
    assert in_guest(client, f"mkpasswd -m sha512 -S {salt} 'first secret'").strip() == shadow

    # what was changed in the guest stays, over a reset of the guest's agent and over a new launcher
    in_guest(client, "(echo; echo touched) >>/root/.ssh/authorized_keys")
    pod.process.kill()
    pod.process.wait()
    pod.start()
    client, watcher = pod.client(), pod.client()
    watcher.ok("Subscribe", **{"from": 1})
    pod.wait_agent(client)
    assert metadata(client) == {"Succeeded": True, "Message": ""}
    assert "touched" in keys_in(client)

    # a secret that changes is read again
    mount(pod, "keys", one=KEYS[3], two=KEYS[1])
    mount(pod, "pass", root="second secret")
    wait_until(lambda: sorted(keys_in(client)) == [KEYS[1], KEYS[2], KEYS[3]], "the new keys are there")
    wait_until(lambda: in_guest(client, "grep ^root: /etc/shadow").split(":")[1] != shadow, "the password is another")
    shadow = in_guest(client, "grep ^root: /etc/shadow").split(":")[1]
    assert in_guest(client, f"mkpasswd -m sha512 -S {shadow.split('$')[2]} 'second secret'").strip() == shadow
    assert "secret" not in pod.text().replace("secrets", "") and "AAAAC3Nza" not in pod.text()
    for path in pod.dir.iterdir():
        if path.is_file():
            assert b"second secret" not in path.read_bytes() and b"first secret" not in path.read_bytes(), path


def test_an_agent_without_the_command(pod):
    """guest-ssh-add-authorized-keys is newer than many agents."""
    mount(pod, "keys", one=KEYS[0])
    mount(pod, "more", three=KEYS[2])
    mount(pod, "pass", root="x")
    spec = manifest()
    boot = spec["spec"]["domain"]["firmware"]["kernelBoot"]
    boot["kernelArgs"] += " vmlet.agentargs=--block-rpcs=guest-ssh-add-authorized-keys"
    client, watcher = start(pod, spec)
    event = watcher.event(lambda e: e["reason"].startswith("AccessCredentials"))
    assert event["reason"] == "AccessCredentialsSyncSuccess", event
    assert sorted(keys_in(client)) == [KEYS[0], KEYS[2]]
    assert in_guest(client, "stat -c %a:%U /root/.ssh/authorized_keys").strip() == "600:root"


@pytest.mark.parametrize("fault", ["no such user", "no secret"])
def test_what_fails_is_told_and_tried_again(pod, fault):
    if fault == "no such user":
        mount(pod, "keys", one=KEYS[0])
        mount(pod, "more", three=KEYS[1])
    mount(pod, "pass", **({"nobody-here": "x"} if fault == "no such user" else {"root": "x"}))
    client, watcher = start(pod, manifest())
    event = watcher.event(lambda e: e["reason"].startswith("AccessCredentials"))
    assert event["reason"] == "AccessCredentialsSyncFailed", event
    assert metadata(client)["Succeeded"] is False
    text = "the user nobody-here" if fault == "no such user" else "keys-access-cred"
    assert text in metadata(client)["Message"] and text in event["message"]
    if fault == "no such user":
        in_guest(client, "echo 'nobody-here:x:7:7::/tmp:/bin/sh' >>/etc/passwd; echo 'nobody-here:*:::::::' >>/etc/shadow")
    else:
        mount(pod, "keys", one=KEYS[0])
        mount(pod, "more", three=KEYS[1])
    watcher.event(lambda e: e["reason"] == "AccessCredentialsSyncSuccess")
    assert metadata(client) == {"Succeeded": True, "Message": ""}
    assert sorted(keys_in(client)) == [KEYS[0], KEYS[1]]


def test_none_are_asked_for(pod):
    client = pod.boot()
    pod.wait_agent(client)
    assert metadata(client) is None
