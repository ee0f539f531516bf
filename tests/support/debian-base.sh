#!/bin/sh
# Makes an OCI image layout with a Debian root that has gcc in it: debian-base.sh LAYOUT
# Needs root, debootstrap and umoci. Does nothing if the layout is complete.
set -eu
layout=$1
[ -e "$layout/complete" ] && exit 0
rm -rf "$layout" "$layout.root"
mkdir -p "$(dirname "$layout")"
debootstrap --variant=minbase --include=gcc,libc6-dev bookworm "$layout.root"
rm -rf "$layout.root"/var/cache/apt/archives/*.deb "$layout.root"/var/lib/apt/lists/*
umoci init --layout "$layout"
umoci new --image "$layout:base"
umoci insert --image "$layout:base" "$layout.root" /
umoci config --image "$layout:base" --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --config.cmd /bin/sh
umoci gc --layout "$layout"
rm -rf "$layout.root"
touch "$layout/complete"
