#!/bin/bash
# The guest's first program: lays a writable root over the host's own files, and goes on there.
#
# The host's / is mounted read-only (hostfs); what the guest writes stays in its memory (tmpfs, overlayfs) and is gone with
# it. Boot parameters that the kernel does not know arrive as environment: weft_job, weft_modules.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# A first program that ends is a panic: power off instead, whatever went wrong.
trap 'echo o >/proc/sysrq-trigger; sleep 60' EXIT

mount -n -t proc proc /proc
mount -n -t sysfs sysfs /sys
overlay=$weft_modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko
if [ -e "$overlay" ]; then insmod "$overlay"; fi
mount -n -t tmpfs -o mode=755,size=80% changes /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -n -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /mnt/root
for dir in proc sys dev; do mount -n --move /$dir /mnt/root/$dir; done
mkdir -p /mnt/root/.host
cd /mnt/root
pivot_root . .host
exec chroot . /bin/bash "$weft_job/system.sh" "$weft_job" "$weft_modules" <dev/console >dev/console 2>&1
