"""The TUN interface: any program on one end device reaches the other end's key through the device between them."""
import hashlib
import json
import os
import subprocess
import sys

from client import until


def line(lab):
    devices = [lab.device(name) for name in "abc"]
    lab.cable(devices[0], devices[1])
    lab.cable(devices[1], devices[2])
    for device in devices:
        device.start("--tun", "mg0", wait=False)
    for device in devices:
        device.wait_ready()
    return devices


def reach(a, address, seconds=15):
    until(lambda: subprocess.run([*a.enter, "ping", "-6", "-c1", "-W1", address], capture_output=True).returncode == 0,
          seconds, f"ping to {address}")


def test_ping_and_a_tcp_transfer_between_the_ends(lab):
    a, _, c = line(lab)
    address = c.mangrove("address")
    reach(a, address)
    done = subprocess.run([*a.enter, "ping", "-6", "-c20", "-i0.05", "-W2", address], capture_output=True, text=True)
    assert " 0% packet loss" in done.stdout, done.stdout
    content = os.urandom(20_000_000)
    listens = "import socket,sys,hashlib;s=socket.create_server((sys.argv[1],7000),family=socket.AF_INET6);print('ready',flush=True);" \
              "f=s.accept()[0].makefile('rb');print(hashlib.sha256(f.read()).hexdigest())"
    sends = "import socket,sys;s=socket.create_connection((sys.argv[1],7000),20);s.sendall(sys.stdin.buffer.read());s.close()"
    server = subprocess.Popen([*c.enter, sys.executable, "-c", listens, address], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        subprocess.run([*a.enter, sys.executable, "-c", sends, address], input=content, check=True, timeout=60)
        assert server.communicate(timeout=60)[0].strip() == hashlib.sha256(content).hexdigest()
    finally:
        server.kill()
        server.wait()


def test_a_packet_with_another_source_than_the_session_is_dropped_and_counted(lab):
    a, _, c = line(lab)
    address, spoofed = c.mangrove("address"), "fd00::bad:1"
    reach(a, address)
    before = json.loads(c.mangrove("ctl", "--json", "self"))["tun_dropped_source"]
    subprocess.run(["ip", "-n", a.namespace, "-6", "addr", "add", f"{spoofed}/128", "dev", "mg0", "nodad"], check=True)
    done = subprocess.run([*a.enter, "ping", "-6", "-c3", "-i0.1", "-W1", "-I", spoofed, address], capture_output=True, text=True)
    assert "100% packet loss" in done.stdout, done.stdout
    # The sender refuses to send it already; a packet forged past its own node is refused by the receiver.
    after = json.loads(c.mangrove("ctl", "--json", "self"))["tun_dropped_source"]
    dropped_here = json.loads(a.mangrove("ctl", "--json", "self"))["tun_dropped_source"]
    assert after + dropped_here >= before + 3
