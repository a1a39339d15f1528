#!/bin/sh
# Builds the initramfs of the lab's guests: busybox, the agent, and the modules that a small VM needs.
# usage: build-initramfs.sh KERNEL_VERSION OUTPUT
set -eu
kernel_version=$1
output=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf "$root"' EXIT INT TERM

mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/modules"
gcc -O2 -Wall -Wextra -static -o "$root/agent" "$here/agent.c"
cp "$here/init" "$root/init"
cp "$(command -v busybox)" "$root/bin/busybox"
chmod 755 "$root/init" "$root/bin/busybox"

# `button` and `evdev` bring the ACPI power button to the agent. modprobe lists what each one needs first, and calls
# what is part of the kernel itself `builtin`. It also complains of a missing /proc/modules, which does not matter here.
for module in virtio_pci virtio_net virtio_blk virtio_balloon button evdev; do
    modprobe --show-depends --set-version "$kernel_version" "$module" 2>/dev/null || {
        echo "kernel $kernel_version has no module $module" >&2
        exit 1
    }
done > "$root/needed"
awk '$1 == "insmod" && !seen[$2]++ {print $2}' "$root/needed" > "$root/paths"
while read -r path; do
    name=$(basename "$path")
    case $path in
        *.xz) name=${name%.xz}; xz -dc "$path" > "$root/modules/$name" ;;
        *.zst) name=${name%.zst}; zstd -qdc "$path" > "$root/modules/$name" ;;
        *) cp "$path" "$root/modules/$name" ;;
    esac
    strip --strip-debug "$root/modules/$name"
    echo "$name" >> "$root/modules/order"
done < "$root/paths"
rm "$root/needed" "$root/paths"
touch "$root/modules/order"

(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) | gzip -9 > "$root.gz"
mv "$root.gz" "$output"
