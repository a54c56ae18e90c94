#!/bin/sh
# What a guest does first. $1, or in User-Mode Linux nattlab_boot= of the kernel's command line, names a file of
# shell assignments: KIND (uml or qemu), MODULES (below which lib/modules/RELEASE lies), WANTED (file of module names), SHARED (paths
# of the host that must be seen), WRITABLE (the one that may be written), DIRECTORY and PROGRAM (what to run, where).
if [ -z "${1-}" ]; then
  mount -t proc proc /proc
  set -- "$(sed -n 's/.*nattlab_boot=\([^ ]*\).*/\1/p' /proc/cmdline)"
fi
. "$1"
if [ "$KIND" = uml ]; then
  mount -t sysfs sysfs /sys
  mount -t devtmpfs devtmpfs /dev 2>/dev/null
  mkdir -p /dev/pts /dev/shm /dev/net
  mount -t devpts devpts /dev/pts
  mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
  for place in /dev/shm /run /tmp /var/tmp; do mount -t tmpfs tmpfs "$place"; done
  for path in $SHARED; do
    [ -e "$path" ] || { mkdir -p "$path" && mount -t hostfs -o "ro,$path" hostfs "$path"; }
  done
  mkdir -p "$WRITABLE"
  mount -t hostfs -o "$WRITABLE" hostfs "$WRITABLE"
  [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
  if [ -z "${TERMINAL-}" ]; then
    exec </dev/tty1 >/dev/tty1
    stty raw -echo
  fi
fi
modprobe -d "$MODULES" -a -q $(cat "$WANTED") 2>/dev/null
# Nothing is loaded later: each PF_KEY REGISTER would ask for every algorithm that there is.
echo >/proc/sys/kernel/modprobe
ip link set lo up
for place in /etc /root /var/lib /var/log; do
  mkdir -p "/run/nattlab$place/upper" "/run/nattlab$place/work"
  mount -t overlay -o "lowerdir=$place,upperdir=/run/nattlab$place/upper,workdir=/run/nattlab$place/work" overlay "$place"
done
if [ "$KIND" = uml ]; then
  # Registers of AVX are not kept there, and libgcrypt, which tshark decrypts with, is told so in no other way.
  mkdir -p /etc/gcrypt
  printf '%s\n' intel-avx intel-avx2 intel-avx512 intel-vaes-vpclmul intel-shaext intel-aesni >/etc/gcrypt/hwf.deny
fi
cd "$DIRECTORY" || exit
if [ -n "${TERMINAL-}" ]; then sh -c "$PROGRAM"; else sh -c "$PROGRAM" 2>/dev/console; fi
if [ "$KIND" = uml ]; then
  sync
  echo o >/proc/sysrq-trigger
  # The kernel is still at it, and would panic if its first process ended.
  exec sleep infinity
fi
