"""benchmarks/: measurements end to end, each of a fraction of a second, and what its figures are made of.

What is measured end to end needs a C compiler and two cores; where these are missing, that is skipped.
"""

import contextlib
import io
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Last, and not for long: an installed uringloop goes before the checkout's.
sys.path.append(str(ROOT))
from benchmarks import __main__ as command  # noqa: E402
from benchmarks import c_parts, figures, machine, measure, peers, plot, progress, rounds, servers, table, workloads  # noqa: E402

sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def parts():
    """The C programs, compiled."""
    parts = c_parts.CParts()
    if c_parts.LOAD in parts.failed:
        pytest.skip(f"the load generator can't be compiled: {parts.failed[c_parts.LOAD]}")
    return parts


@pytest.fixture
def two_cores():
    try:
        return machine.choose_cores()
    except OSError as exc:
        pytest.skip(str(exc))


# --- the command ---


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    """A run of the command: its report and what it printed."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two CPU cores are needed")
    path = tmp_path_factory.mktemp("benchmarks") / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "tcp-1k-1c,schedule-sleep0", "--peers", "ours,asyncio,c-epoll",
         "--rounds", "1", "--seconds", "0.3", "--warm-up", "0.05", "--repeats", "0", "--json", str(path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(path=path, report=json.loads(path.read_text()), output=done.stdout, errors=done.stderr)


def test_command_measures_each_peer_under_each_workload(run):
    assert list(run.report["peers"]) == ["ours", "asyncio", "c-epoll"]
    assert list(run.report["workloads"]) == ["tcp-1k-1c", "schedule-sleep0"]
    for name, entry in run.report["workloads"].items():
        for peer, cell in entry["peers"].items():
            if (name, peer) == ("schedule-sleep0", "c-epoll"):
                assert cell["status"] == "absent"
                continue
            assert cell["status"] == "ok", cell
            assert cell["median"]["cpu_us"] > 0 and cell["median"]["rate"] > 0
            [round_] = cell["rounds"]
            assert round_["foreign"] >= 0 and round_["stolen"] >= 0 and isinstance(round_["invalid"], list)


def test_command_prints_what_the_report_has(run, capsys):
    assert run.output == table.text(run.report) + "\n"
    command.main(["--show", str(run.path)])
    assert capsys.readouterr().out == run.output


def test_command_shows_how_far_it_is(run):
    assert re.search(r"\[#{24}\] 100%", run.errors)


def test_peer_without_the_argument_for_a_tier_is_left_out():
    peer = peers.Peer("ours-stdlib", "asyncio:new_event_loop", {"transports": "stdlib"})
    assert peers.missing_why(peer, None) == ("this uringloop has no transports argument", "")


def test_peer_that_is_not_installed_is_left_out():
    why, _ = peers.missing_why(peers.Peer("x", "no_such_module_at_all:new_event_loop"), None)
    assert "no_such_module_at_all" in why


def test_peer_of_a_checkout(tmp_path):
    peer = peers.parse(f"before={tmp_path}")
    assert (peer.name, peer.factory, peer.python) == ("before", "uringloop:new_event_loop", sys.executable)
    assert peer.variables()["PYTHONPATH"] == str(tmp_path)
    with pytest.raises(ValueError, match="NAME=WHERE"):
        peers.parse(f"before={tmp_path}/missing")


def test_peers_get_nothing_of_what_changes_a_loop(monkeypatch):
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1")
    assert not {"PYTHONASYNCIODEBUG", "MALLOC_MMAP_THRESHOLD_"} & set(peers.KNOWN["asyncio"].variables())
    assert peers.KNOWN["asyncio-malloc"].variables()["MALLOC_MMAP_THRESHOLD_"] == "8000000"


def test_missing_compiler_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert c_parts.CParts(tmp_path).failed == dict.fromkeys(c_parts.PROGRAMS, "there is no C compiler")


def test_workloads_are_chosen_by_the_beginnings_of_their_names():
    names = [workload.name for workload in workloads.choose(["tcp-16k", "churn"])]
    assert names == ["tcp-16k-1c", "tcp-16k-64c", "tcp-16k-1000c", "churn-64c"]
    assert tuple(w.name for w in workloads.choose(quick=True)) == workloads.QUICK
    with pytest.raises(ValueError, match="nonsense"):
        workloads.choose(["tcp-16k", "nonsense"])


def test_every_workload_has_its_server():
    from benchmarks import micro

    for workload in workloads.all_workloads():
        assert workload.figure in workloads.FIGURES
        if workload.load == "micro":
            assert workload.kind in {*micro.BATCHES, "start_loop"}
        elif workload.load != "process":
            assert workload.kind in servers.SERVERS


# --- the load generator, against servers that can be spoiled ---


class Spoiler:
    """Of the replies that pass through it, one has its last byte changed; with 0 none."""

    def __init__(self, which):
        self.which, self.count = which, 0

    def __call__(self, reply):
        self.count += 1
        return reply[:-1] + bytes([reply[-1] ^ 1]) if self.count == self.which else reply


def echo(connection, spoil):
    while data := connection.recv(1 << 16):
        connection.sendall(spoil(data))


def echo_once(connection, spoil):
    connection.sendall(spoil(connection.recv(1 << 16)))


def hello(connection, spoil):
    while connection.recv(1 << 16):
        connection.sendall(spoil(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + servers.BODY))


def count(connection, spoil):
    total = 0
    while data := connection.recv(1 << 18):
        total += len(data)
    connection.sendall(spoil(total.to_bytes(8, "little")))


def chunks(connection, spoil):
    while request := connection.recv(8):
        for _ in range(int.from_bytes(request, "little") // len(servers.CHUNK)):
            connection.sendall(spoil(servers.CHUNK))


def datagrams(sock, spoil):
    with contextlib.suppress(TimeoutError):
        while True:
            data, address = sock.recvfrom(1 << 16)
            sock.sendto(spoil(data), address)


@contextlib.contextmanager
def serving(handler, spoil=None):
    """A server in threads of this process, which the load generator takes for a server's."""
    spoil = spoil or Spoiler(0)
    is_datagram = handler is datagrams
    threads = []
    with socket.socket(type=socket.SOCK_DGRAM if is_datagram else socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(0.5 if is_datagram else None)

        def serve(connection):
            with connection, contextlib.suppress(ConnectionError, IndexError):
                handler(connection, spoil)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threads.append(threading.Thread(target=serve, args=[listener.accept()[0]]))
                    threads[-1].start()

        if not is_datagram:
            listener.listen()
        first = threading.Thread(target=(lambda: datagrams(listener, spoil)) if is_datagram else accept)
        threads.append(first)
        first.start()
        yield SimpleNamespace(port=listener.getsockname()[1], pid=os.getpid())
        if not is_datagram:
            listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def load(parts, mode, server, **options):
    options = {"seconds": 0.05, "warm_up": 0.02, "connections": 2} | options
    return measure.run_load(parts.load, mode, server, min(os.sched_getaffinity(0)), **options)


# Mode, handler, the load's options, and which reply is spoiled: one that comes however busy the machine is. That of a
# stream is behind the first exchange on both connections.
MODES = [
    ("streams", echo, {}, 3), ("churn", echo_once, {"size": 100}, 1), ("http", hello, {}, 1),
    ("datagrams", datagrams, {}, 1), ("sink", count, {"size": 65536}, 1), ("source", chunks, {"size": 1 << 20}, 1),
]  # fmt: skip


@pytest.mark.parametrize("mode, handler, options, which", MODES, ids=[mode[0] for mode in MODES])
def test_wrong_reply_is_found(parts, mode, handler, options, which):
    none = Spoiler(0)
    with serving(handler, none) as server:
        result = load(parts, mode, server, **options)
    # What was done in so short a window depends on the machine; nothing is wrong, and that was looked at.
    measure.check(result | {"bytes": 1}, measure.Failure)
    assert none.count >= which and result["seconds"] >= 0.05

    with serving(handler, Spoiler(which)) as server:
        result = load(parts, mode, server, **options)
    assert result["mismatched"] == 1
    with pytest.raises(measure.Failure) as failure:
        measure.check(result, measure.Failure)
    assert failure.value.status == "wrong"


def test_reply_that_never_comes_is_a_hang(parts):
    def swallow(connection, spoil):
        for _ in range(3):
            connection.sendall(connection.recv(1 << 16))
        while connection.recv(1 << 16):
            pass

    with serving(swallow) as server:
        result = load(parts, "streams", server, connections=1, patience=0.2)
    assert result["lost"] == 1
    with pytest.raises(measure.Failure) as failure:
        measure.check(result | {"bytes": 1}, measure.Failure)
    assert failure.value.status == "hang"


def test_connection_that_ends_is_a_crash(parts):
    with serving(lambda connection, spoil: connection.sendall(connection.recv(1 << 16))) as server:
        result = load(parts, "streams", server)
    with pytest.raises(measure.Failure) as failure:
        measure.check(result, measure.Failure)
    assert failure.value.status == "crash"


def test_open_loop_counts_a_pause_for_all_that_was_due_in_it(parts):
    # 1,000 messages a second for 0.6 s; behind the 150th the server sleeps for 0.3 s. Of all messages a half is due
    # meanwhile. Only one waits where each waits for its connection.
    total = 0

    def pause_once(connection, spoil):
        nonlocal total
        while data := connection.recv(1 << 16):
            before, total = total, total + len(data)
            if before < 150 * 1024 <= total:
                time.sleep(0.3)
            connection.sendall(data)

    with serving(pause_once) as server:
        result = load(parts, "streams", server, connections=1, rate=1000, seconds=0.6)
    measure.check(result, measure.Failure)
    assert result["p99_us"] > 200_000
    # A sixth of them waited for more than 0.15 s.
    assert result["p90_us"] > 150_000
    assert result["p50_us"] <= result["p90_us"] <= result["p99_us"] <= result["p999_us"] <= result["max_us"]
    assert result["late_p99_us"] > 0


# --- the figures ---


def round_of(invalid=(), **figures_):
    return {"invalid": list(invalid), "foreign": 0.0, "stolen": 0.0, **figures_}


def test_ratios_are_of_the_same_round():
    ours = [round_of(cpu_us=x) for x in (10, 20, 40)]
    base = [round_of(cpu_us=x) for x in (20, 20, 20)]
    assert figures.ratios(ours, base, "cpu_us") == [2, 1, 0.5]
    assert figures.ratios([None, *ours[1:]], base, "cpu_us") == [1, 0.5]
    assert figures.ratios(ours[:1], base, "cpu_us") == [2]
    assert figures.ratios([None], base, "cpu_us") == []


def test_invalid_rounds_count_only_where_there_is_no_valid_one():
    rounds_ = [round_of(cpu_us=10), round_of(["steal: 0.5 cores"], cpu_us=90), None, round_of(cpu_us=20)]
    assert figures.usable(rounds_) == [0, 3]
    assert figures.medians(rounds_) == {"cpu_us": 15}
    assert figures.medians(rounds_[1:3]) == {"cpu_us": 90}
    assert figures.medians([None]) == {}
    # The base's only valid round is not valid here: then all count that both have.
    base = [round_of(["steal"], cpu_us=10), round_of(cpu_us=90), None, round_of(["steal"], cpu_us=20)]
    assert figures.ratios(rounds_, base, "cpu_us") == [1, 1, 1]


def test_summary_of_a_cell():
    base = [round_of(cpu_us=x) for x in (30, 20, 10)]
    spoiled = round_of(["foreign load: 1.20 cores"], cpu_us=1)
    cell = rounds.new_cell() | {"rounds": [round_of(cpu_us=10), round_of(cpu_us=10), spoiled]}
    figures.summarize(cell, base, "cpu_us")
    assert (cell["ratio"], cell["ratio_low"], cell["ratio_high"]) == (2.5, 2, 3)
    assert (cell["rounds_measured"], cell["rounds_valid"], cell["invalid"]) == (3, 2, ["foreign load"])
    figures.summarize(cell, None, "cpu_us")
    assert cell["ratio"] is None


def test_what_makes_a_measurement_invalid():
    [echo_, *_] = workloads.choose(["tcp-1k-64c"])
    [latency, *_] = workloads.choose(["latency-1k-64c-2000"])
    [fairness] = workloads.choose(["fairness"])
    [idle] = workloads.choose(["idle"])
    good = {"foreign": 0, "stolen": 0, "seconds": 1, "messages": 2000, "client_cpu": 0.3, "late_p99_us": 5, "p99_us": 100}
    assert measure.invalid_for(good, echo_) == measure.invalid_for(good, latency) == []
    noisy = good | {"foreign": 0.5, "stolen": 0.25}
    assert measure.invalid_for(noisy, echo_) == ["foreign load: 0.50 cores", "steal: 0.25 cores"]
    assert measure.invalid_for(noisy, idle) == []
    # A closed loop's rate is then the client's, its CPU time is still the server's.
    busy = good | {"client_cpu": 0.99}
    assert measure.invalid_for(busy, echo_) == [] and measure.limited_by_client(busy)
    assert measure.invalid_for(busy, latency) == ["saturated client"]
    assert measure.invalid_for(busy, fairness) == []
    assert measure.invalid_for(good | {"late_p99_us": 60}, latency) == ["late client"]
    assert measure.invalid_for(good | {"messages": 1500}, latency) == ["saturated server"]


def test_watch_tells_foreign_load_from_own():
    watch = machine.Watch([])
    # In ten seconds a core was busy for one, three quarters of it with what is measured.
    watch.start -= 10
    watch.busy -= 1
    watch.own -= 0.75
    noise = watch.noise()
    assert 0 < noise["foreign"] <= 0.025 and noise["stolen"] == 0


def test_watch_takes_the_server_and_what_has_ended_for_own():
    assert machine.Watch([], os.getpid()).own > machine.own_cpu()
    assert machine.process_cpu(None) == 0
    before, children = machine.own_cpu(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert machine.own_cpu() - before >= resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - children


# --- rounds ---


def run_rounds(measured, *, peers_=("a", "b", "uvloop"), number=2, repeats=0, limit=None):
    """Run rounds of one workload with a function in place of the measurement; return its cells and the calls."""
    report, calls, saved = {"workloads": {}}, [], []

    def measure_(peer, workload):
        calls.append(peer.name)
        result = measured(peer.name, len(calls))
        if isinstance(result, Exception):
            raise result
        return result

    rounds.run(
        report, workloads.choose(["tcp-1k-64c"]), [peers.Peer(name) for name in peers_], measure_, rounds=number,
        repeats=repeats, limit=limit, progress=lambda *args: None, save=lambda: saved.append(json.dumps(report)),
    )  # fmt: skip
    assert len(saved) == number
    return report["workloads"]["tcp-1k-64c"]["peers"], calls, report


def test_rounds_take_all_peers_in_turn():
    cells, calls, _ = run_rounds(lambda name, _: round_of(cpu_us=4 if name == "uvloop" else 2), number=3)
    assert calls == ["a", "b", "uvloop", "b", "uvloop", "a", "uvloop", "a", "b"]
    assert list(cells) == ["a", "b", "uvloop"]
    assert [cell["ratio"] for cell in cells.values()] == [2, 2, 1]


def test_peer_that_fails_is_asked_twice_and_stops_nobody():
    cells, calls, _ = run_rounds(
        lambda name, _: measure.Failure("wrong", "a byte") if name == "a" else round_of(cpu_us=1), number=4)
    assert calls.count("a") == 2 and calls.count("b") == 4
    assert (cells["a"]["status"], cells["a"]["detail"], cells["a"]["rounds"]) == ("wrong", "a byte", [None, None])
    assert cells["b"]["status"] == "ok"


def test_peer_that_can_not_is_asked_once():
    _, calls, _ = run_rounds(lambda name, _: measure.Failure("unsupported") if name == "a" else round_of(cpu_us=1), number=4)
    assert calls.count("a") == 1


def test_measurement_that_foreign_load_spoiled_is_repeated():
    def measured(name, call):
        return round_of(["foreign load: 1"] if call < 3 else [], cpu_us=call) | {"foreign": 1.0 if call < 3 else 0.0}

    cells, calls, _ = run_rounds(measured, peers_=["a"], number=1, repeats=5)
    assert len(calls) == 3 and cells["a"]["rounds"][0]["cpu_us"] == 3
    cells, calls, _ = run_rounds(lambda name, call: round_of(["late client"], cpu_us=1), peers_=["a"], number=1, repeats=5)
    assert len(calls) == 1


def test_limit_begins_nothing_that_would_end_behind_it():
    cells, calls, report = run_rounds(lambda name, _: round_of(cpu_us=1), limit=0)
    assert not calls and "time was over" in report["stopped"]
    assert all(cell["rounds_measured"] == 0 for cell in cells.values())


def test_interrupted_run_has_what_was_measured():
    report = {"workloads": {}}

    def measured(peer, workload):
        if peer.name == "b":
            raise KeyboardInterrupt
        return round_of(cpu_us=1)

    with pytest.raises(KeyboardInterrupt):
        rounds.run(
            report, workloads.choose(["tcp-1k-64c"]), [peers.Peer("uvloop"), peers.Peer("b")], measured, rounds=1,
            repeats=0, limit=None, progress=lambda *args: None, save=lambda: None,
        )  # fmt: skip
    assert re.search(r"tcp-1k-64c +CPU µs +1\.00", table.summary_table(report | {"peers": ["uvloop", "b"]}))


def test_round_without_a_figure_keeps_the_others_in_place():
    # The limit can leave out one peer's round in the middle: pairs are made by the round's number.
    cell = rounds.new_cell() | {"rounds": [round_of(cpu_us=1)]}
    rounds.measure_into(cell, 2, lambda *args: round_of(cpu_us=3), None, workloads.choose(["tcp-1k-1c"])[0], 0)
    assert [round_ and round_["cpu_us"] for round_ in cell["rounds"]] == [1, None, 3]


# --- what is drawn ---


def drawn_report(**cells):
    """What a report of one workload has that is drawn: each cell its ratio, and how many of its rounds are valid."""
    return {
        "when": "2026-01-02T03:04:05Z", "python": "3.13.0", "machine": {"cpu": "a processor", "kernel": "6.1"},
        "settings": {"rounds": 3, "seconds": 1.0}, "peers": {name: {"version": "1.0"} for name in cells},
        "workloads": {"tcp-1k-64c": {"peers": {
            name: {"status": "ok", "ratio": found, "ratio_low": found and found - 0.1, "ratio_high": found and found + 0.2,
                   "rounds_valid": valid}
            for name, (found, valid) in cells.items()}}},
    }  # fmt: skip


def test_lines_of_a_plot_are_what_is_valid():
    report = drawn_report(ours=(1.25, 3), uvloop=(1.0, 3), asyncio=(0.25, 0), other=(None, 3))
    assert plot.lines_of(report) == [("tcp-1k-64c", {"ours": (1.25, 1.15, 1.45)})]


def test_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.json"
    path.write_text(json.dumps(drawn_report(ours=(1.25, 3), uvloop=(1.0, 3))))
    # In a process of its own: matplotlib keeps its fonts open.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--show", path, "--plot", tmp_path / "plot"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.stdout.split() == [f"{tmp_path}/plot.svg", f"{tmp_path}/plot.png"], done.stderr
    svg = (tmp_path / "plot.svg").read_text()
    assert "tcp-1k-64c" in svg and "1.25" in svg and "a processor, Linux 6.1, Python 3.13.0; ours 1.0, uvloop 1.0" in svg
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_plot_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no workload with a valid round"):
        plot.draw(drawn_report(uvloop=(1.0, 3)), tmp_path / "none")


def test_plot_wants_a_report(capsys):
    with pytest.raises(SystemExit):
        command.main(["--plot", "somewhere"])
    assert "--show FILE --plot STEM" in capsys.readouterr().err


# --- what is shown ---


def report_of(cells, workload="tcp-1k-64c"):
    [chosen] = workloads.choose([workload])
    for cell in cells.values():
        figures.summarize(cell, cells["uvloop"]["rounds"], chosen.figure)
    return {
        "machine": {"kernel": "6.18", "cpu": "a CPU"}, "python": "3.13", "left_out": {"ours-stdlib": "no such argument"},
        "settings": {"cores": [0, 1], "rounds": 1, "seconds": 1}, "peers": {name: {"version": "1"} for name in cells},
        "workloads": {workload: {"workload": vars(chosen), "peers": cells}},
    }  # fmt: skip


def test_table_says_what_is_wrong_with_a_figure():
    cells = {
        "ours": rounds.new_cell() | {"rounds": [round_of(["foreign load: 0.50 cores"], cpu_us=10, rate=1e5)]},
        "uvloop": rounds.new_cell() | {"rounds": [round_of(cpu_us=25, rate=5e4)], "client_limited": True},
        "bad": rounds.new_cell() | {"status": "wrong", "detail": "1 replies differ", "rounds": [None]},
        "c": rounds.new_cell() | {"status": "absent", "rounds": [None]},
    }
    text = table.text(report_of(cells))
    assert re.search(r"^ours +10 +2\.50 .*INVALID: foreign load$", text, re.MULTILINE)
    assert re.search(r"^uvloop +25 +1\.00 .*rate limited by the client$", text, re.MULTILINE)
    assert re.search(r"^bad .*wrong: 1 replies differ$", text, re.MULTILINE)
    assert not re.search(r"^c ", text, re.MULTILINE)
    assert re.search(r"^tcp-1k-64c +CPU µs +2\.50\? +1\.00 +wrong$", text, re.MULTILINE)
    assert "left out: ours-stdlib: no such argument" in text
    assert "invalid: foreign load, 1 of 2 measurements" in text


def test_numbers_have_three_digits():
    assert [table.number(x) for x in (None, 0.1234, 12.34, 999.9, 1234567.8)] == ["", "0.123", "12.3", "1,000", "1,234,568"]


def test_bar_fills_and_keeps_to_the_limit():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    bar = progress.Bar(limit=100, stream=stream, now=iter([0, 50, 90]).__next__)
    bar(1, 4, "half of the time is over")  # 150 s more at this rate
    bar(4, 4, "")
    shown = stream.getvalue().split("\r")
    assert shown[1].startswith("[######..................]  25%  0:50 + 0:50  half of")
    assert shown[2].startswith("[########################] 100%") and shown[2].endswith("\n")


def test_bar_is_short_where_nobody_looks():
    stream = io.StringIO()
    bar = progress.Bar(stream=stream)
    for i in range(1001):
        bar(i, 1000, "x")
    assert len(stream.getvalue().splitlines()) == 21
