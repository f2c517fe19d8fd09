#!/usr/bin/env bash
# Runs a session of two clients and a netcat in tmux, and renders the screen of alice:
#   scripts/record.sh [path of the chatty binary] [FILE, else docs/session.svg]
# The image is an SVG of the terminal's text and colours.
set -euo pipefail
cd "$(dirname "$0")/.."
CHATTY=${1:-}
FILE=${2:-docs/session.svg}
if [ -z "$CHATTY" ]; then
    cargo build --quiet
    CHATTY=target/debug/chatty
fi
CHATTY=$(realpath "$CHATTY")
for program in tmux nc; do
    command -v $program >/dev/null || { echo "$program is not installed" >&2; exit 1; }
done

FOLDER=$(mktemp -d)
finish() {
    tmux -S "$FOLDER/tmux" kill-server 2>/dev/null || true
    [ -z "${SERVER:-}" ] || kill "$SERVER" 2>/dev/null || true
    rm -rf "$FOLDER"
}
trap finish EXIT

# The developer's settings must not affect the image.
for variable in $(compgen -e | grep -E '^(CHATTY_|NO_COLOR$|FORCE_COLOR$|CLICOLOR)' || true); do
    unset "$variable"
done
export CHATTY_CONFIG=/dev/null CHATTY_COLOR=always XDG_STATE_HOME=$FOLDER
# tmux runs the commands with this shell.
export SHELL=/bin/sh

: >"$FOLDER/serve"
"$CHATTY" serve --bind 127.0.0.1 --port 0 --ephemeral 2>"$FOLDER/serve" &
SERVER=$!

# wait_for DESCRIPTION COMMAND...: waits until the command succeeds.
wait_for() {
    local what=$1 tries=600
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "timeout: $what" >&2; exit 1; }
        sleep 0.05
    done
}
wait_for "a server" grep -q 127.0.0.1: "$FOLDER/serve"
PORT=$(sed -n 's/.*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$FOLDER/serve" | head -1)

screen() { tmux -S "$FOLDER/tmux" -f /dev/null -u "$@"; }
start() { # NAME COMMAND: runs the command in a window with this name
    if screen has-session -t s 2>/dev/null; then
        screen new-window -d -t s -n "$1" "$2"
    else
        screen new-session -d -s s -n "$1" -x 76 -y 17 "$2"
    fi
}
stands() { screen capture-pane -p -t "s:$1" | grep -qF -- "$2"; }
shows() { wait_for "$1 sees $2" stands "$1" "$2"; }
types() { screen send-keys -t "s:$1" -l "$2"; }
says() { types "$1" "$2"; screen send-keys -t "s:$1" Enter; }

start alice "'$CHATTY' join 127.0.0.1 --port $PORT --name alice"
shows alice '#lobby'
start bob "'$CHATTY' join 127.0.0.1 --port $PORT --name bob"
shows alice bob
start carol "nc 127.0.0.1 $PORT"
shows carol HELLO
says carol carol
shows alice carol
says bob 'morning! is the deploy done?'
shows alice 'deploy done?'
says alice 'nearly, two tests to go'
shows bob 'two tests to go'
says carol 'alice: shall I look at them? (this is netcat)'
shows alice 'this is netcat'
says bob '/msg alice lunch at twelve?'
shows alice 'lunch at twelve?'
says alice '/msg bob gladly'
shows bob 'gladly'
says carol '/me puts the kettle on'
shows alice 'the kettle on'
types alice 'thank you carol, th'
shows alice 'carol, th'
says bob 'take your time'
shows alice 'take your time'
shows alice 'carol, th'

mkdir -p "$(dirname "$FILE")"
screen capture-pane -p -e -t s:alice | awk '
BEGIN {
    split("1c2027 e06c75 98c379 d19a66 61afef c678dd 56b6c2 d0d4dc 7f848e e06c75 98c379 e5c07b 61afef c678dd 56b6c2 ffffff", base, " ")
    split("0 95 135 175 215 255", level, " ")
    plain()
}
function plain() { color = "d0d4dc"; paper = ""; bold = dim = italic = reverse = 0 }
function rgb(n) {
    if (n < 16) return base[n + 1]
    if (n > 231) return sprintf("%02x%02x%02x", (n - 232) * 10 + 8, (n - 232) * 10 + 8, (n - 232) * 10 + 8)
    n -= 16
    return sprintf("%02x%02x%02x", level[int(n / 36) + 1], level[int(n / 6) % 6 + 1], level[n % 6 + 1])
}
function style(codes,   part, count, i, code) { # codes such as "1;38;5;99"
    count = split(codes, part, ";")
    if (count == 0) plain()
    for (i = 1; i <= count; i++) {
        code = part[i] + 0
        if (code == 0) plain()
        else if (code == 1) bold = 1
        else if (code == 2) dim = 1
        else if (code == 3) italic = 1
        else if (code == 7) reverse = 1
        else if (code == 22) bold = dim = 0
        else if (code == 23) italic = 0
        else if (code == 27) reverse = 0
        else if (code >= 30 && code <= 37) color = rgb(code - 30)
        else if (code == 38 && part[i + 1] == 5) { color = rgb(part[i + 2]); i += 2 }
        else if (code == 39) color = "d0d4dc"
        else if (code == 48 && part[i + 1] == 5) i += 2
        else if (code >= 90 && code <= 97) color = rgb(code - 82)
    }
}
function put(text,   look) {
    if (text == "") return
    gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); gsub(/>/, "\\&gt;", text)
    look = "fill=\"#" color "\""
    if (bold || reverse) look = look " font-weight=\"bold\""
    if (dim) look = look " fill-opacity=\"0.65\""
    if (italic) look = look " font-style=\"italic\""
    if (reverse) look = look " text-decoration=\"underline\""
    row = row "<tspan " look ">" text "</tspan>"
}
{
    row = ""
    while (match($0, /\033\[[0-9;]*m/)) {
        put(substr($0, 1, RSTART - 1))
        style(substr($0, RSTART + 2, RLENGTH - 3))
        $0 = substr($0, RSTART + RLENGTH)
    }
    put($0)
    rows[NR] = row
    if (row != "") last = NR
}
END {
    height = last * 20 + 24
    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 680 " height "\" width=\"680\" role=\"img\">"
    print "<title>A session of chatty join</title>"
    print "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1c2027\"/>"
    print "<g font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"14\">"
    for (n = 1; n <= last; n++)
        print "<text x=\"16\" y=\"" n * 20 + 8 "\" xml:space=\"preserve\">" rows[n] "</text>"
    print "</g>"
    print "</svg>"
}' >"$FOLDER/session.svg"
mv "$FOLDER/session.svg" "$FILE"
echo "wrote $FILE"
