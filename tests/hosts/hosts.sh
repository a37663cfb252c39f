#!/usr/bin/env bash
# Throwaway ssh hosts on one machine: no container engine, no way out.
#
#   hosts.sh up COUNT STATE       start node1 .. nodeCOUNT and wait until their sshd answers
#   hosts.sh list STATE           one line for each: name, address, port
#   hosts.sh ssh STATE NAME ...   run a command on one of them
#   hosts.sh reboot STATE NAME    end one as a power cut does, and start it again with what was on its DISK
#   hosts.sh down STATE           end them and forget what they wrote
#
# A host is a set of namespaces (network, mount, pid, uts, ipc) around an sshd that is its pid 1. Its root is an overlay: what it
# writes goes with it. It has one link, to a bridge of its group, no default route and no name server. STATE/key opens root on it,
# STATE/known_hosts knows it, STATE/ssh_config says all that to ssh -F. Groups with different STATE run beside each other.
#
#   LOWER=/            the read-only root under all hosts: / or the tree that debootstrap has made
#   HIDE=/a:/b         directories of LOWER that the hosts see empty
#   SHOW=/a:/b         directories of this machine that the hosts see all the same, read-only
#   SHARE=/a:/b        directories of this machine that all hosts have and write, as a mounted file system is
#   DISK=40G           what a host writes lies in a sparse ext4 image of this size below STATE, not in memory (8 GB)
#   PORT=22            where sshd listens
#
# Needs root, iproute2, openssh-server.
set -euo pipefail

bridge='' net='' port='' lower='' hide='' show='' share='' disk='' # what STATE/net says of a group

main() {
  case "${1:-}:$#" in
    up:3) up "$2" "$(install -d -m 700 "$3" && realpath "$3")" ;;
    list:2) list "$2" ;;
    ssh:*) [ $# -ge 3 ] || usage; exec ssh -F "$2/ssh_config" "${@:3}" ;;
    reboot:3) reboot "$2" "$3" ;;
    down:2) [ ! -d "$2" ] || down "$(realpath "$2")" ;;
    host:3) host "$2" "$3" ;;
    *) usage ;;
  esac
}

usage() {
  sed -n '/^#   hosts.sh/s/^# //p' "$0" >&2
  exit 2
}

up() {
  local count=$1 state=$2 number
  [ ! -e "$state/net" ] || { echo "The hosts of $state are up already: $0 down $state" >&2; return 1; }
  for number in key hostkey; do ssh-keygen -q -t ed25519 -N '' -C rlinf-test -f "$state/$number" <<<y >/dev/null; done
  # shellcheck disable=SC2064 # the state is known now, and local to this function
  trap "down $(printf %q "$state")" EXIT
  take_network "$state"
  # 198.18.0.0/15 is set aside for benchmarks (RFC 2544). Without this route a host that is not up would be looked for outside.
  ip route replace unreachable 198.18.0.0/15
  # shellcheck source=/dev/null
  . "$state/net"
  rm -f "$state"/{known_hosts,ssh_config}
  for ((number = 1; number <= count; number++)); do start "$state" "$number"; done
  for ((number = 1; number <= count; number++)); do wait_for "$state" "$number"; done
  trap - EXIT
}

take_network() { # the first /24 that no other group has: making its bridge is what takes it
  local number
  for number in {0..255}; do
    if ip link add "rlinf$number" type bridge 2>/dev/null; then
      printf 'bridge=%q net=%q port=%q lower=%q hide=%q show=%q share=%q disk=%q\n' \
        "rlinf$number" "198.18.$number" "${PORT:-22}" "${LOWER:-/}" "${HIDE:-}" "${SHOW:-}" "${SHARE:-}" "${DISK:-}" >"$1/net"
      ip addr add "198.18.$number.1/24" dev "rlinf$number"
      ip link set "rlinf$number" up
      return
    fi
  done
  echo "No bridge could be made: is this root, with iproute2, on a kernel with bridges?" >&2
  return 1
}

start() {
  local state=$1 number=$2 name=node$2 address=$net.$((10 + $2)) space=$bridge-node$2
  install -d "$state/$name"
  ip netns add "$space"
  ip link add "$bridge-$number" type veth peer name eth0 netns "$space"
  ip link set "$bridge-$number" master "$bridge" up
  ip netns exec "$space" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
  ip -n "$space" link set lo up
  ip -n "$space" addr add "$address/24" dev eth0
  ip -n "$space" link set eth0 up
  printf '[%s]:%s %s\n' "$address" "$port" "$(cat "$state/hostkey.pub")" | sed '/:22 /s/^\[\(.*\)\]:22/\1/' >>"$state/known_hosts"
  cat >>"$state/ssh_config" <<EOF
Host $name
  HostName $address
  Port $port
  User root
  IdentityFile $state/key
  IdentitiesOnly yes
  UserKnownHostsFile $state/known_hosts
EOF
  boot "$state" "$number" "$space"
}

boot() { # in a session of its own: a signal to whoever calls this does not reach it
  local state=$1 number=$2 space=$3 name=node$2
  setsid ip netns exec "$space" unshare --mount --pid --uts --ipc --fork --kill-child=SIGKILL \
    bash "$(realpath "$0")" host "$state" "$number" </dev/null >"$state/$name.log" 2>&1 &
  echo $! >"$state/$name.pid"
}

reboot() {
  local state name=$2 pid
  state=$(realpath "$1")
  # shellcheck source=/dev/null
  . "$state/net"
  [ -n "$disk" ] || { echo "Without DISK nothing of $name would be left: DISK=8G $0 up ..." >&2; return 1; }
  pid=$(cat "$state/$name.pid")
  if grep -qz -- "$state" "/proc/$pid/cmdline" 2>/dev/null; then kill -KILL "$pid"; fi
  while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
  boot "$state" "${name#node}" "$bridge-$name"
  wait_for "$state" "${name#node}"
}

wait_for() {
  local try
  for ((try = 0; try < 200; try++)); do
    # shellcheck disable=SC2016 # the inner shell's own arguments
    if timeout 1 bash -c 'exec 3<>"/dev/tcp/$0/$1" && read -r -u 3 _' "$net.$((10 + $2))" "$port" 2>/dev/null; then return; fi
    kill -0 "$(cat "$1/node$2.pid")" 2>/dev/null || break
    sleep 0.05
  done
  echo "node$2 did not come up: $(tail -n 3 "$1/node$2.log")" >&2
  return 1
}

host() { # pid 1 of a host, in its own namespaces
  local state=$1 number=$2 name=node$2 scratch=$1/node$2 root=$1/node$2/root path
  # shellcheck source=/dev/null
  . "$state/net"
  mount --make-rprivate /
  hostname "$name"
  if [ -n "$disk" ]; then
    [ -e "$scratch.img" ] || { truncate -s "$disk" "$scratch.img" && mkfs.ext4 -q -F "$scratch.img"; }
    mount -o loop,discard "$scratch.img" "$scratch"
  else
    mount -t tmpfs -o mode=755,size=8g "$name" "$scratch"
  fi
  mkdir -p "$scratch/upper" "$scratch/work" "$root"
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
  while IFS= read -r -d : path; do
    [ -z "$path" ] || [ ! -d "$root$path" ] || mount -t tmpfs -o "mode=$(stat -c %a "$root$path")" hidden "$root$path"
  done <<<"$hide:"
  mount_devices "$root"
  while IFS= read -r -d : path; do
    [ -z "$path" ] || [ -e "$root$path" ] || { mkdir -p "$root$path" && mount --bind "$path" "$root$path" && mount -o remount,bind,ro "$root$path"; }
  done <<<"$show:"
  while IFS= read -r -d : path; do
    [ -z "$path" ] || { mkdir -p "$root$path" && mount --bind "$path" "$root$path"; }
  done <<<"$share:"
  configure "$root" "$state" "$name" "$net.$((10 + number))"
  cd "$root"
  mkdir -p .outside
  pivot_root . .outside
  umount -l /.outside
  rmdir /.outside
  cd /
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /usr/sbin/sshd -D -e -f /etc/ssh/test_config
}

mount_devices() {
  local root=$1 device
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
  for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
  mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  for device in stdin:0 stdout:1 stderr:2; do ln -s "fd/${device#*:}" "$root/dev/${device%:*}"; done
  mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"
}

configure() {
  local root=$1 state=$2 name=$3 address=$4
  echo "$name" >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" >"$root/etc/hosts"
  rm -f "$root/etc/resolv.conf"
  : >"$root/etc/resolv.conf"
  sed -i 's/^root:[^:]*:/root:*:/' "$root/etc/shadow" # no password, but not locked: sshd without PAM refuses a locked account
  rm -rf "$root/root/.ssh" "$root/root/.bashrc" "$root/root/.profile" # what whoever runs this has set up for their shell is slow and none of a host's
  install -d -m 700 "$root/root" "$root/root/.ssh" "$root/run/sshd"
  install -m 600 "$state/key.pub" "$root/root/.ssh/authorized_keys"
  install -m 600 "$state/hostkey" "$root/etc/ssh/test_hostkey"
  cat >"$root/etc/ssh/test_config" <<EOF
ListenAddress $address:$port
HostKey /etc/ssh/test_hostkey
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile none
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
EOF
}

list() {
  awk '$1 == "Host" { name = $2 } $1 == "HostName" { address = $2 } $1 == "Port" { print name, address, $2 }' "$1/ssh_config"
}

down() {
  local state=${1:?} pid file name
  [ -f "$state/net" ] || return 0
  # shellcheck source=/dev/null
  . "$state/net"
  for file in "$state"/node*.pid; do
    [ -f "$file" ] || continue
    pid=$(cat "$file") name=$(basename "$file" .pid)
    # unshare hands SIGKILL on to its child (--kill-child), and with pid 1 the kernel ends everything in the host
    if grep -qz -- "$state" "/proc/$pid/cmdline" 2>/dev/null; then kill -KILL "$pid"; fi
    while kill -0 "$pid" 2>/dev/null && grep -qz -- "$state" "/proc/$pid/cmdline" 2>/dev/null; do sleep 0.02; done
    ip link del "$bridge-${name#node}" 2>/dev/null || true # by name: with its namespace it would go only some time later
    ip netns del "$bridge-$name" 2>/dev/null || true
    rm -rf --one-file-system "${state:?}/$name" "$state/$name".*
  done
  ip link del "$bridge" 2>/dev/null || true
  rm -f "$state"/{net,key,key.pub,hostkey,hostkey.pub,known_hosts,ssh_config}
  rmdir "$state" 2>/dev/null || true
  ip -br link show type bridge | grep -q '^rlinf' || ip route del unreachable 198.18.0.0/15 2>/dev/null || true
}

main "$@"
