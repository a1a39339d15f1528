#!/bin/sh
# Boots systemd as process 1 of namespaces of its own, on a copy of this machine's root that is thrown
# away: to be run by `unshare --pid --fork --kill-child --mount --uts --ipc --cgroup`.
#
#   boot.sh FOLDER REPOSITORY PYTHON_PREFIX SITE_PACKAGES CONFIG     the program from its repository
#   boot.sh FOLDER OFFERED                                           no program; /opt/offered has OFFERED
#
# Its /tmp must be its own: systemd empties /tmp when it boots.
set -eu
folder=$1
root=$folder/root

mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/up" "$folder/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/up,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
for own in run tmp sys/fs/cgroup; do mount -t tmpfs tmpfs "$root/$own"; done
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mkdir "$root/run/lock"
rm -f "$root"/etc/systemd/system/*.wants/*
# What somebody tried out as root on this machine is not the daemon's.
rm -rf "$root/var/lib/rebalancer"

with_the_program() {
repository=$1 python=$2 packages=$3 config=$4
# The program under test, where a user without rights can read it.
for name in program python packages; do mkdir -p "$root/opt/lab/$name"; done
mount --bind "$repository" "$root/opt/lab/program"
mount --bind "$python" "$root/opt/lab/python"
mount --bind "$packages" "$root/opt/lab/packages"
make --silent -C "$repository" install-units DESTDIR="$root" PREFIX=/usr/local
mkdir -p "$root/usr/local/bin" "$root/etc/rebalancer" \
    "$root/etc/systemd/system/rebalancer.service.d"
cat > "$root/usr/local/bin/rebalancer" <<'END'
#!/bin/sh
export PYTHONPATH=/opt/lab/program:/opt/lab/packages PYTHONDONTWRITEBYTECODE=1
export LD_LIBRARY_PATH=/opt/lab/python/lib
exec /opt/lab/python/bin/python3 -m rebalancer "$@"
END
chmod 755 "$root/usr/local/bin/rebalancer"
cp "$config" "$root/etc/rebalancer/rebalancer.yaml"
printf '[Service]\nWatchdogSec=10\nRestartSec=1\n' \
    > "$root/etc/systemd/system/rebalancer.service.d/test.conf"
}

if [ $# -gt 2 ]; then
    shift
    with_the_program "$@"
else
    rm -rf "$root/etc/rebalancer"
    mkdir -p "$root/opt/offered"
    mount --bind "$2" "$root/opt/offered"
fi

# Not chroot: in one, systemd could not make the user namespaces of PrivateUsers=.
cd "$root"
mkdir mnt/outside
pivot_root . mnt/outside
umount -l /mnt/outside
export container=lab
exec /lib/systemd/systemd --system --unit=multi-user.target --show-status=no
