# Installs one package of the system, as root, and leaves no service enabled or running that was not before.
#
# One script and not a series of commands, so that it ends in order by itself when the program that started it is gone.
set -eu
package=$1
policy=/usr/sbin/policy-rc.d
policy_before=/usr/sbin/policy-rc.d.before-ektola
cluster_settings=/etc/postgresql-common/createcluster.d/ektola.conf
work=$(mktemp -d)

# What starts at boot, by name: the number in a link of init is moved by other packages.
enabled() {
    find /etc/systemd/system /etc/systemd/user -type l \( -path '*.wants/*' -o -path '*.requires/*' \) 2>/dev/null || true
    find /etc/rc?.d -name 'S[0-9][0-9]*' 2>/dev/null | sed 's|/S[0-9][0-9]|/|' || true
}

restore_policy() {
    if [ -e "$policy_before" ]; then
        mv -f "$policy_before" "$policy"
    elif grep -q 'set by ektola' "$policy" 2>/dev/null; then
        rm -f "$policy"
    fi
}

clean_up() {
    enabled | LC_ALL=C sort -u >"$work/after"
    LC_ALL=C comm -13 "$work/before" "$work/after" >"$work/new"
    while read -r link; do
        name=${link##*/}
        case $link in
            /etc/systemd/system/*)
                rm -f "$link"
                if [ -d /run/systemd/system ]; then systemctl stop "$name" || true; fi
                ;;
            /etc/systemd/*) rm -f "$link" ;;
            *) update-rc.d "$name" disable || true ;;
        esac
    done <"$work/new"
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
    rm -f "$cluster_settings"
    restore_policy
    rm -rf "$work"
}

# An earlier installation may have been killed before it could clean up.
restore_policy
enabled | LC_ALL=C sort -u >"$work/before"
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# 101 forbids the packages' scripts to start anything.
if [ -e "$policy" ]; then mv "$policy" "$policy_before"; fi
printf '#!/bin/sh\n# set by ektola while it installs a package\nexit 101\n' >"$policy"
chmod 755 "$policy"
# Postgres' package would make a cluster that starts at boot.
if [ "$package" = postgresql ]; then
    mkdir -p "${cluster_settings%/*}"
    echo 'create_main_cluster = false' >"$cluster_settings"
fi

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8
install() {
    apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold install "$package"
}
# The lists of the packages may be missing or too old to find them.
install || { apt-get -q update && install; }
