#!/usr/bin/env python3
"""All attacks of docs/security.md at once, beside one client that predicts and must get every response.

Usage: attacks.py URL --pid PID --image FILE [--key KEY] [--seconds 600]

Attackers use source addresses of 127.0.1.0/24, the client 127.0.0.2. Prints what each attack got, the client's latencies, the latency of the
liveness probe, and the memory and open files of the server. Exits with 1 if a request of the client or a probe failed, or memory exceeded
--max-mib. Needs Python's standard library only.
"""

import argparse
import base64
import collections
import http.client
import json
import os
import random
import socket
import sys
import threading
import time
import urllib.parse

CLIENT = "127.0.0.2"
MIB = 1 << 20


class Soak:
    """The server under test, and counts of outcomes by attack."""

    def __init__(self, arguments):
        url = urllib.parse.urlsplit(arguments.url)
        self.host, self.port = url.hostname, url.port
        self.key = arguments.key
        self.image = open(arguments.image, "rb").read()
        self.deadline = time.monotonic() + arguments.seconds
        self.outcomes = collections.defaultdict(collections.Counter)
        self.lock = threading.Lock()

    def running(self):
        return time.monotonic() < self.deadline

    def count(self, attack, outcome):
        with self.lock:
            self.outcomes[attack][str(outcome)] += 1

    def headers(self, **more):
        headers = {"Host": f"{self.host}:{self.port}"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers | {name.replace("_", "-"): value for name, value in more.items()}

    def request(self, source, method, path, body=None, headers=None, timeout=60):
        """Sends one request on a connection of its own and returns status, headers and body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout, source_address=(source, 0))
        try:
            connection.request(method, path, body=body, headers=self.headers() | (headers or {}))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def connect(self, source, timeout=60):
        return socket.create_connection((self.host, self.port), timeout=timeout, source_address=(source, 0))

    def head(self, method, path, length, kind="image/png"):
        fields = self.headers(Content_Type=kind, Content_Length=str(length))
        lines = [f"{method} {path} HTTP/1.1"] + [f"{name}: {value}" for name, value in fields.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status_of(connection):
    """Status of the response that arrives, or how the connection ended."""
    try:
        data = connection.recv(4096)
    except TimeoutError:
        return "no response"
    except OSError as error:
        return type(error).__name__
    return data.split(b" ")[1].decode() if data.startswith(b"HTTP/") else "closed"


def stalled_head(soak, source):
    """A prediction whose body never comes."""
    with soak.connect(source) as connection:
        connection.sendall(soak.head("POST", "/v1/predictions", len(soak.image)))
        return status_of(connection)


def dripping_body(soak, source):
    """A prediction whose body comes one byte a second."""
    with soak.connect(source, timeout=1) as connection:
        connection.sendall(soak.head("POST", "/v1/predictions", len(soak.image)))
        for byte in soak.image:
            connection.sendall(bytes([byte]))
            outcome = status_of(connection)
            if outcome != "no response":
                return outcome
            if not soak.running():
                break
    return "never ended"


def slow_upload(soak, source):
    """60 MiB of an image at 1 MiB a second, never completed."""
    with soak.connect(source, timeout=1) as connection:
        connection.sendall(soak.head("POST", f"/v1/datasets/{soak.dataset}/radiographs?label=normal", 60 * MIB))
        for _ in range(59):
            connection.sendall(bytes(MIB))
            outcome = status_of(connection)
            if outcome != "no response":
                return outcome
    return "abandoned"


def unread_export(soak, source):
    """An export whose response is not read."""
    with soak.connect(source) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(soak.head("GET", f"/v1/datasets/{soak.dataset}/exports/x_train_224.npy", 0))
        time.sleep(min(45, max(0, soak.deadline - time.monotonic())))
    return "abandoned"


def large_json(soak, source):
    """60 MB of JSON for a route whose requests are small."""
    body = b'{"name": "' + b"a" * 60_000_000 + b'"}'
    return soak.request(source, "POST", "/v1/datasets", body, {"Content-Type": "application/json"})[0]


def nested_json(soak, source):
    """JSON of a hundred thousand nested arrays for the inference protocol."""
    return soak.request(source, "POST", "/v2/models/champion/infer", b"[" * 100_000, {"Content-Type": "application/json"})[0]


def wrong_key(soak, source):
    """A guessed key."""
    guess = base64.b64encode(random.randbytes(24)).decode()
    return soak.request(source, "GET", "/v1/datasets", headers={"Authorization": f"Bearer {guess}"})[0]


def foreign_page(soak, source):
    """A form that a page of another origin sends."""
    headers = {"Origin": "https://attacker.example", "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    return soak.request(source, "POST", "/v1/training-runs", b"{}", headers)[0]


def rebound_name(soak, source):
    """A request for a name that points to the server."""
    return soak.request(source, "DELETE", "/v1/models/champion", headers={"Host": "attacker.example"})[0]


def many_parts(soak, source):
    """A form of 100,000 parts."""
    part = b'--b\r\nContent-Disposition: form-data; name="label"\r\n\r\nx\r\n'
    return soak.request(source, "POST", f"/v1/datasets/{soak.dataset}/radiographs", part * 100_000 + b"--b--\r\n",
                        {"Content-Type": "multipart/form-data; boundary=b"})[0]


def idle_connection(soak, source):
    """A connection that sends nothing."""
    with soak.connect(source) as connection:
        connection.settimeout(max(1, min(90, soak.deadline - time.monotonic())))
        return status_of(connection)


def noise(soak, source):
    """Random bytes in place of HTTP."""
    with soak.connect(source, timeout=20) as connection:
        connection.sendall(random.randbytes(2000) + b"\r\n\r\n")
        return status_of(connection)


def damaged_image(soak, source):
    """An image with flipped bytes."""
    image = bytearray(soak.image)
    for _ in range(20):
        image[random.randrange(len(image))] ^= 0xFF
    return soak.request(source, "POST", "/v1/predictions", bytes(image), {"Content-Type": "image/png"})[0]


# Attack, number of attackers, pause between two tries in seconds.
ATTACKS = [
    (stalled_head, 64, 0.5),
    (dripping_body, 16, 0.5),
    (slow_upload, 30, 1),
    (unread_export, 40, 1),
    (large_json, 4, 2),
    (nested_json, 2, 1),
    (wrong_key, 4, 0.05),
    (foreign_page, 2, 0.5),
    (rebound_name, 2, 0.5),
    (many_parts, 2, 2),
    (idle_connection, 200, 1),
    (noise, 2, 0.5),
    (damaged_image, 2, 1),
]


def attack(soak, how, source, pause):
    while soak.running():
        try:
            soak.count(how.__name__, how(soak, source))
        except OSError as error:
            soak.count(how.__name__, type(error).__name__)
        except http.client.HTTPException as error:
            soak.count(how.__name__, type(error).__name__)
        time.sleep(pause)


def client(soak, latencies, failures):
    """Predicts once in 300 ms. Every response must be a prediction."""
    while soak.running():
        began = time.monotonic()
        try:
            status, _, body = soak.request(CLIENT, "POST", "/v1/predictions", soak.image, {"Content-Type": "image/png"})
            if status != 200 or "prediction" not in json.loads(body):
                failures.append(f"{status}: {body[:200]!r}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(repr(error))
        latencies.append(time.monotonic() - began)
        time.sleep(0.3)


def probe(soak, latencies, failures):
    while soak.running():
        began = time.monotonic()
        try:
            status = soak.request(CLIENT, "GET", "/health/live")[0]
            if status != 200:
                failures.append(f"liveness {status}")
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"liveness {error!r}")
        latencies.append(time.monotonic() - began)
        time.sleep(0.5)


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def quantiles(seconds):
    ordered = sorted(seconds)
    at = lambda q: ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000
    return f"n {len(ordered)}, median {at(0.5):.0f} ms, p99 {at(0.99):.0f} ms, max {ordered[-1] * 1000:.0f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--key")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--max-mib", type=float, default=1500)
    arguments = parser.parse_args()
    soak = Soak(arguments)
    status, _, body = soak.request(CLIENT, "GET", "/v1/datasets")
    assert status == 200, (status, body)
    soak.dataset = json.loads(body)["items"][0]["id"]

    before, quiet = resident_mib(arguments.pid), []
    for _ in range(20):
        began = time.monotonic()
        status = soak.request(CLIENT, "POST", "/v1/predictions", soak.image, {"Content-Type": "image/png"})[0]
        assert status == 200, status
        quiet.append(time.monotonic() - began)
    soak.deadline = time.monotonic() + arguments.seconds

    served, alive, failures = [], [], []
    threads = [
        threading.Thread(target=client, args=(soak, served, failures)),
        threading.Thread(target=probe, args=(soak, alive, failures)),
    ]
    number = 0
    for how, attackers, pause in ATTACKS:
        for _ in range(attackers):
            number += 1
            source = f"127.0.1.{number % 250 + 1}"
            threads.append(threading.Thread(target=attack, args=(soak, how, source, pause)))
    for thread in threads:
        thread.daemon = True
        thread.start()
    memory, files = [], []
    while soak.running():
        memory.append(resident_mib(arguments.pid))
        files.append(open_files(arguments.pid))
        time.sleep(1)
    for thread in threads:
        thread.join(timeout=100)
    time.sleep(20)
    after = resident_mib(arguments.pid)

    for how, attackers, _ in ATTACKS:
        print(f"{how.__name__} x {attackers}: {dict(soak.outcomes[how.__name__])}")
    print(f"client before: {quantiles(quiet)}")
    print(f"client: {quantiles(served)}")
    print(f"liveness: {quantiles(alive)}")
    print(f"memory: {before:.0f} MiB before, {max(memory):.0f} at most, {after:.0f} after; at most {max(files)} open files")
    print(f"failures: {len(failures)} {failures[:5]}")
    if failures or max(memory) > arguments.max_mib:
        sys.exit(1)


if __name__ == "__main__":
    main()
