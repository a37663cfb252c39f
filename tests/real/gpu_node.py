# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a GPU node without network: everything that the folder beside this file was made for (see tests/real/gpu.py). Standard library only.

    python3 try.py [--out DIR] [--work DIR]

A control node is made out of the bundle; it looks at this node, judges locks for it, installs, verifies, and meets GPUs that are hidden or full.
What was expected and seen goes to ``record.json``, all that was said to ``log`` in the output folder. The exit status is that of the worst.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PATIENCE = 400
NODE = "gpu01"
# what a program has of the environment that somebody without a login would have
BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_RECAP = re.compile(rf"^{NODE}\s*: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
_MISFIT = re.compile(r"what does not fit, and what to do.*?\n\s*\]", re.DOTALL)
# takes all that is free of the first GPU, says so, and holds it until its input ends
FILL = """
import sys, torch
free = torch.cuda.mem_get_info(0)[0]
held = []
for size in (1 << 30, 1 << 26, 1 << 21):
    while True:
        try: held.append(torch.empty(size, dtype=torch.uint8, device="cuda:0"))
        except torch.cuda.OutOfMemoryError: break
print("full", free, torch.cuda.mem_get_info(0)[0], flush=True)
sys.stdin.read()
"""
# runs a program where the devices of the driver are not there, as in a container that was given no GPU: $1 becomes its /dev, where root's
# nvidia-smi cannot make them anew
HIDE = """
set -e
mount --make-rprivate /
new=$1; shift
mkdir -p "$new"; mount -t tmpfs none "$new"
for name in null zero full random urandom tty; do touch "$new/$name"; mount --bind "/dev/$name" "$new/$name"; done
for name in pts shm; do mkdir "$new/$name"; mount --bind "/dev/$name" "$new/$name"; done
ln -s pts/ptmx "$new/ptmx"; ln -s /proc/self/fd "$new/fd"; mount -o remount,ro "$new"
mount --rbind "$new" /dev
exec "$@"
"""
# reads libraries as a download does wheels
READ = """
import json, resource, sys, time
from ansible_collections.rlinf.offline.plugins.module_utils._kernels import code_in
found = {}
for path in sys.argv[1:]:
    start = time.monotonic()
    with open(path, "rb") as stream: code = sorted({(capability, kind) for capability, kind in code_in(stream)})
    found[path] = {"code": code, "seconds": round(time.monotonic() - start, 2)}
print(json.dumps({"libraries": found, "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""

# calls a kernel of each library on the first GPU; 0 is the right result, 2209 that there is no code for the GPU
RUN = """
import ctypes, json, sys
from ansible_collections.rlinf.offline.plugins.module_utils._kernels import code_in, runs
for path in sys.argv[2:]:
    with open(path, "rb") as stream: found = set(code_in(stream))
    code = ["%d.%d%s" % (number // 10, number % 10, "+PTX" if kind == 1 else "") for number, kind in sorted(found)]
    print(json.dumps({"code": code, "predicted": runs(code, sys.argv[1]), "status": ctypes.CDLL(path).run_kernel(256)}), flush=True)
"""
# what the kernel is built for: machine code, and PTX
KERNELS = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120", "compute_75", "compute_80", "compute_90", "compute_100")


class Trial:
    """What is tried, and what was seen."""

    def __init__(self, out: Path, work: Path) -> None:
        self.out, self.work, self.control = out, work, work / "control"
        self.written = json.loads((HERE / "settings.json").read_text(encoding="utf-8"))
        self.settings: dict[str, Any] = self.written["settings"]
        self.gpu = Path("/dev/nvidiactl").exists()
        self.record: dict[str, Any] = {"gpu": self.gpu, "python": sys.version, "user": os.getuid(), "steps": []}
        self.log = out / "log"

    def run(
        self, what: str, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, user: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program, and write down what it said."""
        start = time.monotonic()
        done = subprocess.run(
            list(map(str, command)),
            env={**BARE, "HOME": str(self.work / "home"), "ANSIBLE_CONFIG": str(self.control / "ansible.cfg"), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(f"=== {what}\n$ {' '.join(map(str, command))}\n{done.stdout}\n=== status {done.returncode}\n\n")
        self.seconds = round(time.monotonic() - start, 1)
        return done

    def note(self, what: str, right: bool, **seen: Any) -> None:
        """Write down whether something was as expected."""
        self.record["steps"].append({"what": what, "right": right, "seconds": self.seconds, **seen})
        print(f"{'ok  ' if right else 'BAD '} {self.seconds:6.1f} s  {what}", flush=True)
        (self.out / "record.json").write_text(json.dumps(self.record, indent=1), encoding="utf-8")

    def inventory(self, name: str, bundle: Path, catalog: Mapping[str, Any], prefix: str, **variables: Any) -> Path:
        """Write an inventory (JSON is YAML) of this machine as the bastion and the node."""
        common = {**self.written["variables"], "ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        common["rlinf_catalog"] = {**common["rlinf_catalog"], "targets": catalog}
        common |= {"rlinf_system_packages_state": "ignored", "rlinf_bundle_dir": str(bundle), **variables}
        common["ansible_python_interpreter"] = self.record.get("interpreter", "/usr/bin/python3")
        children = {"rlinf_bastion": {"hosts": {"bastion": {}}}, "rlinf_nodes": {"hosts": {NODE: {"rlinf_prefix": prefix}}}}
        path = self.work / f"{name}.json"
        path.write_text(json.dumps({"all": {"vars": common, "children": children}}), encoding="utf-8")
        return path

    def play(
        self,
        name: str,
        inventory: Path,
        *extra: str,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        before: Sequence[str | Path] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection; *before* is the command that runs it, if not directly."""
        program = self.control / "venv" / "bin" / "ansible-playbook"
        command = [*before, program, "-i", inventory, f"rlinf.offline.{name}", *extra]
        return self.run(f"{name} {' '.join(extra)}", command, env=env, user=user)


def words(text: str) -> str:
    """Return what Ansible said as one line, without the quotes that its lists have."""
    return re.sub(r'",\s+"\s*|\s+', " ", text)


def recap(done: subprocess.CompletedProcess[str]) -> tuple[int, int]:
    """Return how many tasks changed something on the node, and failed."""
    found = _RECAP.search(done.stdout)
    return (int(found[1]), int(found[2]) + int(found[3])) if found else (-1, -1)


def table(done: subprocess.CompletedProcess[str]) -> str:
    """Return the table of misfits."""
    found = _MISFIT.search(done.stdout)
    return found[0] if found else ""


def make_control_node(trial: Trial) -> None:
    made = trial.run("make a control node", [sys.executable, HERE / "bundle" / "tools" / "make-control-node", trial.control])
    trial.note("a control node is made out of the bundle", made.returncode == 0)


def look(trial: Trial) -> dict[str, Any]:
    """Compare what rlinf_node_info says of the GPUs with what nvidia-smi says."""
    inventory = trial.inventory("look", HERE / "bundle", {}, str(trial.work / "prefix"))
    ansible = trial.control / "venv" / "bin" / "ansible"
    asked = json.dumps({"prefix": str(trial.work / "prefix"), "pythons": [trial.settings["python"]]})
    done = trial.run("rlinf_node_info", [ansible, "-i", inventory, NODE, "-m", "rlinf.offline.rlinf_node_info", "-a", asked])
    text = done.stdout
    node: dict[str, Any] = {}
    if "=> {" in text:
        # gpu01 | SUCCESS => {...}
        node = json.loads(text[text.index("=> {") + 3 :])["node"]
    gpus = node.get("gpus", {})
    trial.record["node"] = {key: value for key, value in node.items() if key not in ("system",)}
    expected: Any = None
    smi = shutil.which("nvidia-smi", path=f"{BARE['PATH']}:/usr/local/nvidia/bin")
    if smi:
        fields = "index,name,memory.total,driver_version,compute_cap,mig.mode.current"
        said = subprocess.run([smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=False)
        (trial.out / "nvidia-smi-query.csv").write_text(said.stdout, encoding="utf-8")
        expected = [line.split(", ") for line in said.stdout.splitlines()]
    mig = {True: "Enabled", False: "Disabled", None: "[N/A]"}
    seen = [
        [str(device["index"]), device["name"], str(device["memory"]), gpus["driver"], device["compute"], mig[device["mig"]]]
        for device in gpus.get("devices", ())
    ]
    trial.note("rlinf_node_info says what nvidia-smi says", bool(node) and (seen == expected if trial.gpu else not seen), gpus=gpus)
    return node


def judge(trial: Trial) -> None:
    """Judge locks that fit, and locks that do not."""
    judged, settings = trial.written["judged"], trial.settings
    for name, targets, fits in (("fitting", settings["fitting"], True), *((name, [name], False) for name in settings["unfit"])):
        inventory = trial.inventory(f"judge-{name}", HERE / "judged", judged, str(trial.work / "judged"), rlinf_targets=targets)
        done = trial.play("preflight", inventory)
        trial.note(f"preflight: {', '.join(targets)} {'fit' if fits else 'is refused'}", (done.returncode == 0) is fits, table=table(done))
    inventory = trial.inventory(
        "judge-too-old",
        HERE / "bundle",
        trial.written["variables"]["rlinf_catalog"]["targets"],
        str(trial.work / "judged"),
        rlinf_targets=[settings["too_old"]],
    )
    done = trial.play("preflight", inventory)
    right = "has compute capability" in words(table(done)) and done.returncode != 0 if trial.gpu else done.returncode == 0
    trial.note("preflight: a PyTorch without code for this GPU is refused", right, table=table(done))


def install(trial: Trial, prefix: Path, user: int | None = None) -> Path:
    """Install off the network, again, and verify; return the inventory."""
    who = "root" if user is None else f"user {user}"
    prefix.mkdir(parents=True, exist_ok=True)
    home = trial.work / f"home-{user}"
    home.mkdir(exist_ok=True)
    if user is not None:
        os.chown(prefix, user, user)
        os.chown(home, user, user)
    env = {"HOME": str(home), "ANSIBLE_HOME": str(home / ".ansible"), "ANSIBLE_REMOTE_TEMP": str(home / "tmp")}
    catalog = trial.written["variables"]["rlinf_catalog"]["targets"]
    target = trial.settings["installed"]
    required = {"rlinf_gpu_check": "required" if trial.gpu else "auto", "rlinf_air_gap": True}
    inventory = trial.inventory(f"install-{user}", HERE / "bundle", catalog, str(prefix), rlinf_targets=[target], **required)
    for number in (1, 2):
        done = trial.play("site", inventory, env=env, user=user)
        changed, failed = recap(done)
        right = done.returncode == 0 and failed == 0 and (changed > 0 if number == 1 else changed == 0)
        trial.note(f"site as {who}, run {number}", right, changed=changed)
    done = trial.play("verify", inventory, env=env, user=user)
    said = re.search(r'"GPUs": "([^"]*)"', done.stdout)
    computed = bool(said) and "computed rightly on" in said[1] if trial.gpu else done.returncode == 0
    gap = prefix / "state" / "air-gap.json"
    judged = json.loads(gap.read_text(encoding="utf-8")) if gap.is_file() else {}
    trial.note(f"verify as {who}", done.returncode == 0 and computed, GPUs=said[1] if said else "", air_gap=judged)
    return inventory


def spoil(trial: Trial, inventory: Path) -> None:
    """Hide the GPU, name one that is not there, and take all of its memory."""
    home = trial.work / "home-None"
    env = {"HOME": str(home), "ANSIBLE_HOME": str(home / ".ansible"), "ANSIBLE_REMOTE_TEMP": str(home / "tmp")}
    for hidden in ("", "7"):
        done = trial.play("verify", inventory, env={**env, "CUDA_VISIBLE_DEVICES": hidden})
        right = done.returncode != 0 and f"CUDA_VISIBLE_DEVICES is '{hidden}' here" in done.stdout
        trial.note(f"verify with CUDA_VISIBLE_DEVICES={hidden!r} says so", right, said=message(done))
    python = trial.work / "prefix" / "venvs" / trial.settings["installed"] / "bin" / "python"
    with subprocess.Popen(
        [python, "-c", FILL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as filler:
        full = filler.stdout.readline().strip() if filler.stdout else ""
        done = trial.play("verify", inventory, env=env)
        ignored = trial.play("verify", inventory, "-e", "rlinf_gpu_check=ignored", env=env)
        filler.communicate("")
    right = full.startswith("full") and done.returncode != 0 and "set rlinf_gpu_check: ignored" in words(done.stdout)
    trial.note("verify while a job has all the memory says so", right, filled=full, said=message(done))
    trial.note("verify with rlinf_gpu_check=ignored passes meanwhile", ignored.returncode == 0)
    done = trial.play("verify", inventory, env=env)
    trial.note("verify once the memory is free again passes", done.returncode == 0)


def without_devices(trial: Trial, inventory: Path) -> None:
    """Verify, and look before an install, where the driver's devices are not there."""
    home = trial.work / "home-None"
    env = {"HOME": str(home), "ANSIBLE_HOME": str(home / ".ansible"), "ANSIBLE_REMOTE_TEMP": str(home / "tmp")}
    hidden = ["unshare", "-m", "sh", "-c", HIDE, "sh", trial.work / "dev"]
    smi = trial.run("nvidia-smi without devices", [*hidden, "nvidia-smi"], env={"PATH": f"{BARE['PATH']}:/usr/local/nvidia/bin"})
    done = trial.play("verify", inventory, env=env, before=hidden)
    right = done.returncode != 0 and "a GPU is required (rlinf_gpu_check), and this node has none" in done.stdout
    trial.note("verify without devices, a GPU required, says so", right, said=message(done), nvidia_smi=[smi.returncode, smi.stdout])
    done = trial.play("verify", inventory, "-e", "rlinf_gpu_check=auto", env=env, before=hidden)
    right = done.returncode == 0 and "nothing computed: no GPU on this node" in done.stdout
    trial.note("verify without devices passes otherwise", right)
    judged = trial.written["judged"]
    inventory = trial.inventory(
        "judge-hidden", HERE / "judged", judged, str(trial.work / "judged"), rlinf_targets=trial.settings["fitting"]
    )
    done = trial.play("preflight", inventory, before=hidden)
    right = done.returncode == 0 and "on the PCI bus, and" in words(table(done))
    trial.note("preflight without devices counts the GPUs on the bus", right, table=table(done))


def message(done: subprocess.CompletedProcess[str]) -> str:
    """Return what the failed task said."""
    found = re.search(r'"?msg"?: (.*)', done.stdout.partition("fatal:")[2] or done.stdout.partition("[ERROR]")[2])
    return found[1][:1500] if found else done.stdout[-1500:]


def read_libraries(trial: Trial) -> None:
    """Read the libraries of the machine's PyTorch, and compare with NVIDIA's cuobjdump."""
    found = subprocess.run(
        ["find", "/opt/torch/.venv/lib", "-name", "*.so*", "-type", "f", "-size", "+20M"], capture_output=True, text=True, check=False
    )
    cuobjdump = shutil.which("cuobjdump", path="/usr/local/cuda/bin")
    if not cuobjdump:
        return
    libraries = sorted(found.stdout.split())
    env = {"PYTHONPATH": str(trial.control / "collections")}
    done = trial.run("read libraries", [trial.control / "venv" / "bin" / "python", "-c", READ, *libraries], env=env)
    seen = json.loads(done.stdout.splitlines()[-1])
    more = {}
    right = bool(libraries)
    for path, read in seen["libraries"].items():
        read["cuobjdump"] = sorted(listed(cuobjdump, path))
        code = {tuple(item) for item in read["code"]}
        # what a library keeps as data, and loads itself, cuobjdump does not list
        right = right and code.issuperset(read["cuobjdump"])
        if code.difference(read["cuobjdump"]):
            more[path] = sorted(code.difference(read["cuobjdump"]))
    trial.record["libraries"] = seen
    told = f"{len(libraries)} libraries hold all code that cuobjdump lists, {len(libraries) - len(more)} of them no more"
    trial.note(told, right, more=more, peak_kib=seen["peak_kib"])


def run_kernels(trial: Trial, capability: str) -> None:
    """Build a kernel for several GPUs, and see whether it runs where the preflight says that it would; nvcc is needed."""
    nvcc = shutil.which("nvcc", path=f"/usr/local/cuda/bin:{BARE['PATH']}")
    if not nvcc:
        return

    def build(code: str) -> Path:
        library = trial.work / f"kernel-{code}.so"
        virtual = code.replace("sm_", "compute_")
        command = [nvcc, "-shared", "-Xcompiler", "-fPIC", "-gencode", f"arch={virtual},code={code}", HERE / "kernel.cu", "-o", library]
        subprocess.run(command, check=True, capture_output=True, env={**BARE, "HOME": str(trial.work / "home")})
        return library

    with ThreadPoolExecutor() as pool:
        libraries = list(pool.map(build, KERNELS))
    env = {"PYTHONPATH": str(trial.control / "collections")}
    done = trial.run("run kernels", [trial.control / "venv" / "bin" / "python", "-c", RUN, capability, *libraries], env=env)
    seen = {code: json.loads(line) for code, line in zip(KERNELS, done.stdout.splitlines(), strict=True)}
    right = all(said["predicted"] == (said["status"] == 0) for said in seen.values())
    runs = [code for code, said in seen.items() if said["status"] == 0]
    trial.note(f"kernels run on {capability} where the preflight says so: {', '.join(runs)} of {', '.join(KERNELS)}", right, seen=seen)


def listed(cuobjdump: str, path: str) -> set[tuple[int, int]]:
    """Return what cuobjdump lists of a library, as capability and kind."""
    found = set()
    for arguments in (["--list-elf"], ["--list-ptx"], ["-all", "--list-elf"], ["-all", "--list-ptx"]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            said = subprocess.run([cuobjdump, *arguments, path], capture_output=True, text=True, check=False, timeout=60).stdout
            kind = 2 if arguments[-1] == "--list-elf" else 1
            found |= {(int(capability), kind) for capability in re.findall(r"\.sm_(\d+)[af]?\.", said)}
    return found


def main() -> int:
    """Try everything; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-trial"), help="where the record and the log go (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("/tmp/rlinf-gpu-trial"), help="where everything is made; it is removed first")
    parser.add_argument("--python", default="/usr/bin/python3", help="the node's interpreter for modules (default: %(default)s)")
    options = parser.parse_args()
    out, work = options.out.absolute(), options.work.absolute()
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    (work / "home").mkdir(parents=True)
    trial = Trial(out, work)
    trial.record["interpreter"] = options.python
    trial.seconds = 0.0
    make_control_node(trial)
    node = look(trial)
    judge(trial)
    inventory = install(trial, work / "prefix")
    if trial.gpu:
        spoil(trial, inventory)
        if not os.getuid():
            without_devices(trial, inventory)
        read_libraries(trial)
        run_kernels(trial, node["gpus"]["devices"][0]["compute"])
    if not os.getuid():
        install(trial, work / "prefix-of-a-user", user=65534)
    wrong = [step["what"] for step in trial.record["steps"] if not step["right"]]
    print(f"{len(trial.record['steps'])} steps, {len(wrong)} not as expected{': ' if wrong else ''}{'; '.join(wrong)}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
