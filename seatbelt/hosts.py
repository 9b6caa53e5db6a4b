"""hosts.py [--exits N] [HOST...]: programs that load a Python late, or have one in them, as their packages have them.

Each is ended N times (20) while native threads call into Python, plain and with libpep788 preloaded and PEP788_GILSTATE=protect. Prints a
table: how many exits crashed, hung, or had another status than was asked for, and how many said that nothing is protected. Fails if a protected one did. Installs nothing: a host
that is not there is skipped, and what to install is said. Servers listen on the loopback only, and are stopped.
"""
import argparse
import contextlib
import glob
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "bench"))
import pythons  # noqa: E402

# In seconds: until a host that is told to end is taken for one that hangs. A protected exit may take 8 by its settings.
PATIENCE = 20

# Four threads that call back until the process is gone.
START = """
import ctypes, time
def call():
    return sum(range(50))
call = ctypes.CFUNCTYPE(None)(call)
native = ctypes.CDLL(%r)
native.start_callbacks(call, 4)
time.sleep(0.05)
"""

WSGI = """
import os
started = False
def application(environ, start_response):
    global started
    if not started:
        started = True
        exec(START, globals())
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [str(os.getpid()).encode()]
"""

SIGNAL = r"terminate called|[Ss]egmentation|SIGSEGV|SIGABRT|Aborted|signal (4|6|7|8|11)\b|exit signal|Fatal Python error"
UNPROTECTED = "cannot be protected here"


class Skip(Exception):
    """Why a host is not run."""


def need(path, package):
    found = shutil.which(path) or next(iter(sorted(glob.glob(path))), None)
    if found is None:
        raise Skip("%s is missing (Debian: apt-get install %s)" % (path, package))
    return found


class Place:
    """A folder that others may read too: servers give up being root."""

    def __init__(self, folder):
        os.chmod(folder, 0o755)
        self.folder = folder
        self.native = os.path.join(folder, "libnative.so")
        command = ["c++", "-std=c++17", "-O1", "-g", "-shared", "-fPIC", "-pthread", os.path.join(HERE, "native.cc"), "-o", self.native]
        subprocess.run(command, check=True)
        self.library = shutil.copy(pythons.LIBRARY, folder)
        self.start = START % self.native
        self.script = self.write("script.py", self.start)
        self.app = self.write("app.py", "START = %r\n" % self.start + WSGI)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def environment(self, protected):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PEP788_")}
        if protected:
            environment.update(LD_PRELOAD=self.library, PEP788_GILSTATE="protect")
        return environment


class Count:
    def __init__(self):
        self.exits = self.crashed = self.hung = self.changed = self.unprotected = 0
        self.last = ""

    def note(self, status, wanted, said):
        """The exit of one process. `None`: it had to be killed."""
        self.exits += 1
        # Of a signal, of a shell or a child that tells of one.
        is_crash = status is not None and (status < 0 or status > 128 or re.search(SIGNAL, said) is not None)
        if status is None:
            self.hung += 1
        elif is_crash:
            self.crashed += 1
        elif status != wanted:
            self.changed += 1
        self.unprotected += UNPROTECTED in said
        if status is None or is_crash or status != wanted:
            self.last = "status %s: %s" % (status, said.strip()[-600:])


    def take(self, said, crash, hang="(?!)"):
        """What a server's log tells of all its exits."""
        crashes, hangs = [match[0] for match in re.finditer(crash, said)], [match[0] for match in re.finditer(hang, said)]
        self.crashed += len(crashes)
        self.hung += len(hangs)
        self.unprotected += said.count(UNPROTECTED)
        self.last = (crashes + hangs + [self.last])[0]


def end(process, patience=PATIENCE):
    """What it said, and its status."""
    try:
        said = process.communicate(timeout=patience)[0]
    except subprocess.TimeoutExpired:
        # Its children too: they have the pipe.
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], None
    return said, process.returncode


def start(command, environment, output=subprocess.PIPE):
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True,
                            errors="replace", env=environment, start_new_session=True)


def wait_for(condition, process, what):
    limit = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > limit:
            raise RuntimeError("%s: %s" % (what, "it has ended" if process.poll() is not None else "in vain"))
        time.sleep(0.02)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def get(port, path="/"):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open("http://127.0.0.1:%d%s" % (port, path), timeout=PATIENCE) as answer:
        return answer.read()


def text_of(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


# --- Programs that run a script ------------------------------------------------------------------

def programs(command, wanted=0):
    """A host that ends by itself."""
    def run(place, number, protected):
        count = Count()
        words = command(place)
        for _ in range(number):
            said, status = end(start(words, place.environment(protected)))
            count.note(status, wanted, said)
        return count
    return run


def gdb(place):
    return [need("gdb", "gdb"), "-nx", "-batch", "-ex", "source " + place.script]


def vim(place):
    return [need("vim.nox", "vim-nox"), "-u", "NONE", "-i", "NONE", "-es", "-c", "py3file " + place.script, "-c", "qa!"]


def weechat(place):
    weechat = need("weechat-headless", "weechat-headless")
    need("/usr/lib/*/weechat/plugins/python.so", "weechat-python")
    # Not by a callback: it is of the script's own interpreter, which is ended while the main one, for which the threads call, goes on.
    threads = place.start.replace("start_callbacks(call, 4)", "start_nesting(4)")
    script = place.write("weechat_script.py", "import weechat\nweechat.register('threads', 'us', '1', 'MIT', 'threads', '', '')\n" + threads)
    return [weechat, "--stdout", "--temp-dir", "--run-command", "/python load %s;/wait 200ms /quit" % script]


def pyinstaller(place):
    program = place.path("dist/app")
    if not os.path.exists(program):
        source = place.write("app_of_pyinstaller.py", "import sys\n" + place.start + "sys.exit(3)\n")
        installer = need(os.environ.get("PYINSTALLER", "pyinstaller"), "... no: pip install pyinstaller, and PYINSTALLER=its path")
        done = subprocess.run([installer, "--onefile", "--name", "app", "--distpath", place.path("dist"), "--workpath", place.path("build"),
                               "--specpath", place.folder, source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise Skip("PyInstaller makes no program: " + done.stdout.strip()[-300:])
    return [program]


def collectd(place, number, protected):
    collectd = need("/usr/sbin/collectd", "collectd-core")
    need("/usr/lib/collectd/python.so", "collectd-core, libpython3.11")
    place.write("collectd_module.py", "import collectd\ndef init():\n    exec(%r, globals())\n    open(%r, 'w').close()\ncollectd.register_init(init)\n"
                % (place.start, place.path("collectd.started")))
    config = place.write("collectd.conf", """
BaseDir "%(folder)s"
PIDFile "%(folder)s/collectd.pid"
PluginDir "/usr/lib/collectd"
TypesDB "/usr/share/collectd/types.db"
Interval 1
LoadPlugin python
<Plugin python>
    ModulePath "%(folder)s"
    Import "collectd_module"
</Plugin>
""" % {"folder": place.folder})
    count = Count()
    for _ in range(number):
        started = place.path("collectd.started")
        with contextlib.suppress(FileNotFoundError):
            os.remove(started)
        process = start([collectd, "-f", "-C", config], place.environment(protected))
        wait_for(lambda: os.path.exists(started), process, "collectd's init")
        process.send_signal(signal.SIGTERM)
        said, status = end(process)
        count.note(status, 0, said)
    return count


# --- Servers --------------------------------------------------------------------------------------

# Up to 3.11 a Python that ends with interpreters left ends by this, without any threads too: uwsgi has one for each mount but the first.
OWN_END = "PyInterpreterState_Delete: remaining subinterpreters"


def uwsgi(mounts):
    def run(place, number, protected):
        """An exit is that of a master and its two workers, both of which have all applications with threads."""
        uwsgi = need("uwsgi", "uwsgi-core")
        need("/usr/lib/uwsgi/plugins/python3*_plugin.so", "uwsgi-plugin-python3")
        count, own = Count(), 0
        for _ in range(number):
            port = free_port()
            command = [uwsgi, "--plugin", "python3", "--http-socket", "127.0.0.1:%d" % port, "--master", "--processes", "2",
                       "--enable-threads", "--die-on-term", "--manage-script-name"]
            for mount in mounts:
                command += ["--mount", "%s=%s" % (mount, place.write("app_%s.py" % mount[1:], text_of(place.app)))]
            process = start(command, place.environment(protected))
            wait_for(lambda: listens(port), process, "uwsgi")
            for mount in mounts * 4:
                get(port, mount)
            process.send_signal(signal.SIGTERM)
            said, status = end(process)
            # Of two workers, the lines may be mixed.
            own += said.count(OWN_END)
            count.note(status, 0, said.replace("Fatal Python error: ", "", said.count(OWN_END)))
        if own:
            print("seatbelt: uwsgi, %s: %d of %d workers ended by CPython's own `remaining subinterpreters`, which is not counted"
                  % ("protected" if protected else "plain", own, 2 * number), file=sys.stderr, flush=True)
        return count
    return run


def mod_wsgi(daemon):
    def run(place, number, protected):
        """An exit is that of a child process, after the one request that it is for."""
        apache = need("apache2", "apache2")
        need("/usr/lib/apache2/modules/mod_wsgi.so", "libapache2-mod-wsgi-py3")
        name = "daemon" if daemon else "embedded"
        folder = place.path("%s-%d" % (name, protected))
        os.mkdir(folder)
        port, log = free_port(), os.path.join(folder, "error.log")
        modules = "".join("LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n" % (module, module)
                          for module in ("mpm_prefork", "authz_core", "wsgi"))
        if daemon:
            wsgi = "WSGIDaemonProcess threads processes=1 threads=2 maximum-requests=1 shutdown-timeout=%d\nWSGIProcessGroup threads\n" % (PATIENCE // 2)
        else:
            wsgi = "MaxConnectionsPerChild 1\n"
        config = place.write("apache-%s-%d.conf" % (name, protected), """
ServerRoot "%s"
ServerName localhost
Listen 127.0.0.1:%d
PidFile "%s/apache.pid"
DefaultRuntimeDir "%s"
ErrorLog "%s"
LogLevel info
KeepAlive Off
%s
User www-data
Group www-data
StartServers 1
MinSpareServers 1
MaxSpareServers 1
%s
WSGIScriptAlias / %s
WSGIApplicationGroup %%{GLOBAL}
<Directory "%s">
    Require all granted
</Directory>
""" % (folder, port, folder, folder, log, modules, wsgi, place.app, place.folder))
        process = start([apache, "-f", config, "-DFOREGROUND"], place.environment(protected))
        count = Count()
        try:
            wait_for(lambda: listens(port), process, "apache2")
            for _ in range(number):
                child = int(get(port))
                count.note(0 if is_gone(child) else None, 0, "")
        finally:
            process.send_signal(signal.SIGTERM)
            said, status = end(process)
        # The parent tells of the children.
        count.take(text_of(log) + said, r".*terminated by signal.*" if daemon else r".*exit signal.*", r".*Aborting process.*")
        return count
    return run


def children(parent):
    with open("/proc/%d/task/%d/children" % (parent, parent)) as file:
        return set(file.read().split())


def is_gone(process):
    """Waits for the end of another's child. `False`: in vain."""
    limit = time.monotonic() + PATIENCE
    while os.path.exists("/proc/%d" % process):
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def plpython(place, number, protected):
    """An exit is that of a backend, whose session has called a function that starts threads."""
    bin_folder = os.path.dirname(need("/usr/lib/postgresql/*/bin/initdb", "postgresql"))
    need("/usr/lib/postgresql/*/lib/plpython3.so", "postgresql-plpython3-15")
    data, port = place.path("postgres-%d" % protected), free_port()
    os.mkdir(data)
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    account = pwd.getpwnam(user)
    os.chown(data, account.pw_uid, account.pw_gid)
    become = ["setpriv", "--reuid", user, "--regid", str(account.pw_gid), "--clear-groups"] if os.getuid() == 0 else []

    def tool(name, *words):
        return become + [os.path.join(bin_folder, name), *words]

    plain = dict(place.environment(False), HOME=data, PGHOST=data, PGPORT=str(port), PGUSER=user, PGDATABASE="postgres")
    plain.pop("PGDATA", None)

    def sql(text):
        return subprocess.run(tool("psql", "-X", "-v", "ON_ERROR_STOP=1", "-c", text), check=True, env=plain,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")

    subprocess.run(tool("initdb", "-D", data, "-A", "trust", "-U", user), check=True, env=plain, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, cwd="/")
    log = os.path.join(place.folder, "postgres-%d.log" % protected)
    count = Count()
    with open(log, "w") as output:
        server = dict(plain, **{name: value for name, value in place.environment(protected).items() if name not in plain})
        process = start(tool("postgres", "-D", data, "-p", str(port), "-k", data, "-c", "listen_addresses=", "-c", "restart_after_crash=on"),
                        server, output)
        try:
            wait_for(lambda: subprocess.run(tool("pg_isready", "-q"), env=plain, cwd="/").returncode == 0, process, "postgres")
            sql("CREATE EXTENSION plpython3u")
            sql("CREATE FUNCTION start() RETURNS void LANGUAGE plpython3u AS $$\nexec(%s, GD)\n$$" % repr(place.start).replace("$$", ""))
            for _ in range(number):
                wait_for(lambda: subprocess.run(tool("pg_isready", "-q"), env=plain, cwd="/").returncode == 0, process, "postgres")
                sql("SELECT start()")
                limit = time.monotonic() + PATIENCE
                while backends(process.pid) and time.monotonic() < limit:
                    time.sleep(0.02)
                hangs = backends(process.pid)
                count.note(None if hangs else 0, 0, "")
                for backend in hangs:
                    os.kill(int(backend), signal.SIGKILL)
        finally:
            process.send_signal(signal.SIGINT)
            end(process)
    # Less those that were killed here.
    count.take(text_of(log), r".*was terminated by signal (?!9\b).*")
    return count


def backends(parent):
    """The children that serve a session, or end."""
    def serves(child):
        with contextlib.suppress(OSError):
            return b"[local]" in open("/proc/%s/cmdline" % child, "rb").read()
        return False
    return [child for child in children(parent) if serves(child)]


HOSTS = {
    "pyinstaller": programs(pyinstaller, 3),
    "uwsgi": uwsgi(["/a"]),
    "uwsgi-two-mounts": uwsgi(["/a", "/b"]),
    "mod_wsgi-embedded": mod_wsgi(False),
    "mod_wsgi-daemon": mod_wsgi(True),
    "plpython3u": plpython,
    "weechat": programs(weechat),
    "collectd": collectd,
    "vim": programs(vim),
    "gdb": programs(gdb),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exits", type=int, default=20)
    parser.add_argument("host", nargs="*", choices=[[], *HOSTS], metavar="HOST")
    asked = parser.parse_args()
    # Many crash by intention.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    failed = 0
    counted = "crashed | hung | other status | unprotected"
    print("| host | exits | plain: crashed | hung | other status | protected: %s |" % counted)
    print("| --- " + "| ---: " * 8 + "|", flush=True)
    with tempfile.TemporaryDirectory(prefix="pep788-hosts-") as folder:
        place = Place(folder)
        for name in asked.host or HOSTS:
            try:
                plain, protected = [HOSTS[name](place, asked.exits, whether) for whether in (False, True)]
            except Skip as why:
                print("seatbelt: %s is skipped: %s" % (name, why), file=sys.stderr, flush=True)
                continue
            for count, how in (plain, "plain"), (protected, "protected"):
                if count.last:
                    print("seatbelt: %s, %s, the last failure: %s" % (name, how, count.last.replace("\n", " | ")), file=sys.stderr, flush=True)
            row = [name, protected.exits, plain.crashed, plain.hung, plain.changed,
                   protected.crashed, protected.hung, protected.changed, protected.unprotected]
            failed += sum(row[5:])
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
    if failed:
        sys.exit("seatbelt: %d protected exits crashed, hung, had another status, or were not protected" % failed)


main()
