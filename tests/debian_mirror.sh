# shellcheck shell=bash
# Sourced: debian_mirror prints the base address of the Debian archive that this machine's apt uses.
# The sites of security fixes and of other vendors carry no full archive, hence the question for "main" of a release.

debian_mirror() {
    if [ -n "${QUICFS_DEBIAN_MIRROR:-}" ]; then
        echo "$QUICFS_DEBIAN_MIRROR"
        return
    fi
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 == "main" { print $4; found = 1; exit } END { exit !found }'
}
