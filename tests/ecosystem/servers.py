"""Servers of Debian's packages, on loopback, each with a directory of its own; as an ordinary user where this is root.

    with Servers() as running:
        running.address("redis")        # started when it is first asked for
"""

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

CERTIFICATE = Path(__file__).resolve().parents[1] / "certificate.pem"
# Where Debian puts what is not on everybody's PATH.
DIRECTORIES = [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), "/usr/sbin", "/usr/local/sbin"]
# Debian's package, and the program in it.
PACKAGES = {
    "postgresql": ("postgresql", "initdb"),
    "redis": ("redis-server", "redis-server"),
    "nginx": ("nginx-light", "nginx"),
    "dbus": ("dbus", "dbus-daemon"),
}

NGINX = r"""
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 100;
    server {{
        listen 127.0.0.1:{port};
        root {directory};
        client_max_body_size 64m;
        # /proxy/PORT/PATH
        location ~ ^/proxy/(\d+)/(.*)$ {{
            proxy_pass http://127.0.0.1:$1/$2;
            proxy_http_version 1.1;
        }}
    }}
}}
"""

DBUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={directory}/socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"""


def find(program):
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *DIRECTORIES]))


class Servers:
    """The servers that were asked for, until the end of the `with` block."""

    def __init__(self):
        self._addresses = {}
        self._stack = contextlib.ExitStack()
        # Root gives up its rights for them: PostgreSQL insists.
        self._user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if not os.getuid() else {}

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._stack.close()

    @staticmethod
    def has(name):
        """Is it installed?"""
        return find(PACKAGES[name][1]) is not None

    def address(self, name):
        """Where a server is to be reached: a URL, or a directory and a URL.  Starts it the first time."""
        if name not in self._addresses:
            self._addresses[name] = getattr(self, f"_{name}")(self._directory())
        return self._addresses[name]

    def _directory(self):
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ecosystem-"))
        if self._user:
            shutil.chown(directory, "nobody", self._user["group"])
        os.chmod(directory, 0o755)
        return directory

    def _start(self, directory, command, port_or_path):
        with open(os.path.join(directory, "log"), "wb") as log:
            process = subprocess.Popen([find(command[0]), *command[1:]], cwd=directory, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, start_new_session=True, **self._user)
        self._stack.callback(self._end, process)
        deadline = time.monotonic() + 30
        while not _listens(port_or_path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not start:\n{Path(directory, 'log').read_text()}")
            time.sleep(0.05)

    @staticmethod
    def _end(process):
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _copy(self, source, directory, name):
        """A file of ours that the server may read, and nobody else."""
        path = shutil.copyfile(source, os.path.join(directory, name))
        os.chmod(path, 0o600)
        if self._user:
            shutil.chown(path, "nobody", self._user["group"])
        return path

    def _postgresql(self, directory):
        data, port = os.path.join(directory, "data"), _free_port()
        subprocess.run([find("initdb"), "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-N"], check=True,
                       cwd=directory, stdout=subprocess.DEVNULL, **self._user)
        certificate = self._copy(CERTIFICATE, directory, "certificate.pem")
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": directory, "fsync": "off",
                    "max_connections": 100, "ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": certificate}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._start(directory, ["postgres", "-D", data, *options], port)
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def _redis(self, directory):
        port = _free_port()
        self._start(directory, ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", directory], port)
        return f"redis://127.0.0.1:{port}/0"

    def _nginx(self, directory):
        port = _free_port()
        Path(directory, "nginx.conf").write_text(NGINX.format(directory=directory, port=port))
        os.chmod(Path(directory, "nginx.conf"), 0o644)
        self._start(directory, ["nginx", "-p", directory, "-e", f"{directory}/error.log", "-c", f"{directory}/nginx.conf"], port)
        # The program puts its files there.
        return f"{directory} http://127.0.0.1:{port}"

    def _dbus(self, directory):
        Path(directory, "bus.conf").write_text(DBUS.format(directory=directory))
        os.chmod(Path(directory, "bus.conf"), 0o644)
        self._start(directory, ["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork"], f"{directory}/socket")
        return f"unix:path={directory}/socket"


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def _listens(port_or_path):
    tcp = isinstance(port_or_path, int)
    with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as sock:
        return sock.connect_ex(("127.0.0.1", port_or_path) if tcp else port_or_path) == 0
