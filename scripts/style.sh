#!/usr/bin/env bash
# Counts phrases that the language rules of CONTRIBUTING.md replace:
#   scripts/style.sh            counts in the comments of src/, for information
#   scripts/style.sh --check    fails if a phrase of a short fixed list occurs anywhere
set -euo pipefail
cd "$(dirname "$0")/.."

# Brackets keep the patterns from matching this file. Plain grep, since a copy of the source
# may have no git.
FORBIDDEN='parted wit[h]|in good orde[r]|as many as there ar[e]|so many [a]n? [a-z]'
if [ "${1:-}" = --check ]; then
    status=0
    grep -rnIiE "$FORBIDDEN" src tests docs benches fuzz/fuzz_targets scripts ./*.md || status=$?
    case $status in
    0)
        echo "style.sh: rewrite these phrases (CONTRIBUTING.md, Language)" >&2
        exit 1
        ;;
    1) exit 0 ;;
    *) exit "$status" ;;
    esac
elif [ $# -gt 0 ]; then
    echo "style.sh: unknown argument: $1; usage: scripts/style.sh [--check]" >&2
    exit 2
fi

comments() {
    grep -rhE '^\s*//' src --include='*.rs' | sed -E 's,^\s*//[/!]? ?,,'
}
lines=$(comments | wc -l)
count() {
    local name=$1 pattern=$2 found
    found=$(comments | grep -ciE -- "$pattern" || true)
    awk -v n="$name" -v f="$found" -v l="$lines" \
        'BEGIN { printf "%-34s %5d  %6.1f per 1,000\n", n, f, 1000 * f / l }'
}
echo "$lines comment lines in src/"
count 'clause-initial who/whoever' '(^|[.;:,] |and |but )(who|whoever|whom) '
count 'nobody/somebody/anybody' '\b(nobody|somebody|anybody)\b'
count 'so many/so long/as many' '\b(so many|so much|so long|as many|as much)\b'
count 'tell/say for send or report' '\b(tells?|told|says|said)\b'
count 'anew, lies, lets go' '\b(anew|lies|lets go)\b'
echo "terms of the field, lines in src/:"
for term in backpressure throttl graceful confusable deduplicat heartbeat coalesc checkpoint broadcast; do
    printf '%-34s %5d\n' "$term" "$(grep -rhiE "$term" src | wc -l)"
done
