#!/bin/bash
# rootfs.sh DIRECTORY PROGRAM…: a root directory with these programs of this machine in /usr/bin, and the libraries that they are
# linked with. What the image and Docker's managed plugin are made from: nothing is downloaded.
# With busybox (static) among the programs, its ping, ip and sh are there too, to look around with.
set -euo pipefail
root=$1; shift
rm -rf "$root"
mkdir -p "$root"/{usr/bin,etc,run,tmp,var/lib/weft,proc,sys,dev}
ln -s usr/bin "$root/bin"
# Container runtimes call what is in /run by /var/run, too.
ln -s ../run "$root/var/run"
for program in "$@"; do
    path=$(command -v "$program")
    # Without its debugging symbols, most of its size.
    install -s -m 755 "$path" "$root/usr/bin/${path##*/}"
    if libraries=$(ldd "$path" 2>/dev/null); then
        # Lines are `name => path (address)`, or `path (address)` for the loader.
        for library in $(awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' <<<"$libraries"); do
            [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library"
        done
    fi
    case ${path##*/} in
        busybox) for applet in sh ping ip cat; do ln -sf busybox "$root/usr/bin/$applet"; done ;;
        # Its targets are libraries that it looks for by itself.
        iptables) for target in /usr/lib/*/xtables/libxt_standard.so; do install -D "$target" "$root$target"; done ;;
    esac
done
