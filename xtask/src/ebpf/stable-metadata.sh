#!/bin/sh
# Stands between cargo and rustc while the kernel programs are built. Cargo's `-C metadata` of a crate
# outside of its workspace, as ocserv-common is to ocserv-ebpf, hashes the path of the checkout and the
# version of cargo; symbol names carry it into the object. Name and version are as unique here.
set -eu

case " $* " in
    *" bpfel-unknown-none "*) ;;
    *) exec "$@" ;;
esac
for argument; do
    shift
    case $argument in
        metadata=*) argument="metadata=$CARGO_CRATE_NAME-$CARGO_PKG_VERSION" ;;
    esac
    set -- "$@" "$argument"
done
exec "$@"
