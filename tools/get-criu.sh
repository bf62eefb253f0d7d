#!/bin/sh
# Puts the CRIU of Debian 13, with the libraries that it needs, into a directory of its own: that of Debian 12 does not
# work on recent kernels. DIR/criu runs it. Nothing of the machine's own packages is touched.
#
#   tools/get-criu.sh DIR
set -eu
dir=$(mkdir -p "$1" && cd "$1" && pwd)
[ ! -x "$dir/criu" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/debs/partial"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] http://deb.debian.org/debian trixie main" >"$work/sources"
apt() {
    apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist="$work/sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null \
        -o Dir::Cache::archives="$work/debs" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
apt update
apt install -y --no-install-recommends --download-only criu >/dev/null
rm -rf --one-file-system "$dir/root"
for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$dir/root"; done
loader=$(find "$dir/root/usr/lib/" -mindepth 2 -name 'ld-linux*')
cat >"$work/criu" <<END
#!/bin/sh
exec '$loader' --library-path '${loader%/*}' '$dir/root/usr/sbin/criu' "\$@"
END
chmod +x "$work/criu"
mv "$work/criu" "$dir/criu"
