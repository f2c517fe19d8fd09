#!/usr/bin/env bash
# Counts phrases that the language rules of CONTRIBUTING.md replace:
#   scripts/style.sh            per 1,000 comment lines of src/, a look and not a verdict
#   scripts/style.sh --check    fails on the short list of phrases that are always wrong
set -euo pipefail
cd "$(dirname "$0")/.."

# Always wrong, wherever a person reads them. The patterns are written so that they do not match here.
ALWAYS='parted wit[h]|in good orde[r]|as many as there ar[e]|so many [a] (second|minute|page|turn)|be[l]l rings?\b|keep(s|ing)? hous[e]|nobody saw [i]t'
if [ "${1:-}" = --check ]; then
    if git grep -nIE "$ALWAYS" -- src tests docs benches fuzz scripts '*.md'; then
        echo "style.sh: rewrite these phrases (CONTRIBUTING.md, Language)" >&2
        exit 1
    fi
    exit 0
fi

comments() {
    git grep -hE '^\s*//' -- 'src/*.rs' | sed -E 's,^\s*//[/!]? ?,,'
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
    printf '%-34s %5d\n' "$term" "$(git grep -hiE "$term" -- src | wc -l)"
done
