//! The programs and recipes of docs/bots.md, run as they stand there.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{CHATTY, Peer, Server, Terminal, has_program};

/// A program in a process group of its own, which is killed at the end of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let group = self.0.id().try_into().map(Pid::from_raw).expect("a process id");
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Writes the block with this file name into a folder, with replacements.
fn write_block(folder: &Path, name: &str, replacements: &[(&str, &str)]) -> PathBuf {
    let page = include_str!("../../docs/bots.md");
    let (_, rest) = page.split_once(&format!(" {name}\n")).expect(name);
    let (text, _) = rest.split_once("\n```").expect("the end of a block");
    let mut text = text.to_owned() + "\n";
    for (from, to) in replacements {
        assert!(text.contains(from), "{name}: {from}");
        text = text.replace(from, to);
    }
    let file = folder.join(name);
    fs::write(&file, text).expect("written");
    file
}

/// Runs a program with this `chatty` first in the path. It ends with the server.
fn start(program: &str, file: &Path, args: &[&str]) -> Running {
    let folder = Path::new(CHATTY).parent().expect("a folder").display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").expect("a path"));
    let child = Command::new(program)
        .arg(file)
        .args(args)
        .envs([("PATH", path.as_str()), ("CHATTY_CONFIG", "/dev/null")])
        .stdin(Stdio::null())
        .process_group(0)
        .spawn();
    Running(child.expect(program))
}

/// Starts a bot of the page, and waits until it has joined.
fn bot(
    program: &str,
    name: &str,
    args: &[&str],
    server: &Server,
) -> (Running, Peer, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = write_block(folder.path(), name, &[]);
    let mut alice = Peer::join(server.port, "alice");
    let running = start(program, &file, args);
    let (name, _) = name.split_once('.').expect("an ending");
    alice.hears(|line| line == format!("* {name} joined"));
    (running, alice, folder)
}

#[test]
fn python_bot_on_a_socket_answers() {
    if !has_program("python3") {
        return;
    }
    let server = Server::start();
    let port = server.port.to_string();
    let (_bot, mut alice, _folder) = bot("python3", "clock.py", &["127.0.0.1", &port], &server);
    alice.say("!time");
    assert_eq!(alice.next(), "alice: !time");
    let answer = alice.next();
    let time = answer.strip_prefix("clock: alice, it is ").expect(&answer);
    assert_eq!((time.len(), time.find(':')), (5, Some(2)), "{answer}");
}

#[test]
fn python_bot_over_json_answers_and_survives_a_restart() {
    if !has_program("python3") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let port = server.port.to_string();
    let args = ["127.0.0.1", "--port", &port, "--quiet"];
    let (_bot, mut alice, _files) = bot("python3", "todo.py", &args, &server);
    for (said, answer) in [
        ("!list", "nothing to do"),
        ("!add tea", "tea"),
        ("!add", "tea"),
        ("!add milk", "tea; milk"),
    ] {
        alice.say(said);
        alice.hears(|line| line == format!("todo: {answer}"));
    }
    server.kill();
    let server =
        Server::start_again(server.port, &["--data", folder.path().to_str().expect("a path")]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("!list");
    alice.hears(|line| line == "todo: tea; milk");
}

#[test]
fn shell_bot_with_netcat_answers() {
    if !has_program("bash") || !has_program("nc") {
        return;
    }
    let server = Server::start();
    let port = server.port.to_string();
    let (_bot, mut alice, _folder) = bot("bash", "ponger.sh", &["127.0.0.1", &port], &server);
    alice.say("!ping");
    alice.hears(|line| line == "ponger: pong, alice");
}

#[test]
fn shell_bot_with_jq_greets_people() {
    if !has_program("bash") || !has_program("jq") {
        return;
    }
    let server = Server::start();
    let port = server.port.to_string();
    let args = ["127.0.0.1", "--port", &port];
    let (_bot, _alice, _folder) = bot("bash", "porter.sh", &args, &server);
    let mut bob = Peer::join(server.port, "bob");
    bob.hears(|line| line == "[PRIVATE MESSAGE] porter: welcome! /help lists commands");
}

fn free_port() -> u16 {
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    unused.expect("a port").port()
}

/// Runs a program to its end, which must be a success.
fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().expect(program);
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn ssh_recipe_opens_the_client() {
    if !["sshd", "ssh", "ssh-keygen", "tmux"].iter().all(|program| has_program(program)) {
        return;
    }
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    for key in ["host", "mine"] {
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &file(key)]);
    }
    let key = fs::read_to_string(file("mine.pub")).expect("a key");
    let (chatty, place) = (format!("exec {CHATTY} "), format!("127.0.0.1:{} ", server.port));
    let replaced =
        [("exec chatty ", &*chatty), ("127.0.0.1:5555 ", &place), (" KEY\n", &format!(" {key}"))];
    let keys = write_block(folder.path(), "authorized_keys", &replaced);
    let port = free_port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nUsePAM no\n\
         StrictModes no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n",
        file("host"),
        keys.display(),
    );
    fs::write(file("sshd_config"), config).expect("written");
    // As root sshd needs this folder for the separation of privileges.
    let _ = fs::create_dir("/run/sshd");
    let sshd = Command::new("sh")
        .args(["-c", &format!("exec \"$(command -v sshd)\" -D -e -f {}", file("sshd_config"))])
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let _sshd = Running(sshd.expect("sshd"));
    Terminal::waits("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut bob = Peer::join(server.port, "bob");
    let ssh = format!(
        "ssh -tt -q -F /dev/null -i {} -p {port} -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null 127.0.0.1 alice",
        file("mine"),
    );
    let Some(terminal) = Terminal::open(&ssh) else { return };
    bob.hears(|line| line == "* alice joined");
    terminal.shows_last("#lobby>");
    terminal.types("hi from ssh\r");
    bob.hears(|line| line == "alice: hi from ssh");
    terminal.types("/quit\r");
    bob.hears(|line| line == "* alice quit");
}

#[test]
fn webhook_recipe_posts_the_text() {
    if !has_program("webhook") || !has_program("curl") {
        return;
    }
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let (chatty, port) = (format!("\"{CHATTY}\""), format!("\"--port={}\"", server.port));
    let first = r#"{"source": "string", "name": "--room=builds"},"#;
    let more = format!("{first} {{\"source\": \"string\", \"name\": {port}}},");
    let hooks =
        write_block(folder.path(), "hooks.json", &[("\"chatty\"", &*chatty), (first, &more)]);
    let port = free_port().to_string();
    let hook = Command::new("webhook")
        .args(["-hooks", hooks.to_str().expect("a path"), "-ip", "127.0.0.1", "-port", &port])
        .env_remove("CHATTY_ROOM")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let _hook = Running(hook.expect("webhook"));
    Terminal::waits("webhook", || {
        std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()
    });
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/join builds");
    alice.settles();
    let address = format!("http://127.0.0.1:{port}/hooks/build");
    let request = |token: &str, text: &str| {
        let token = format!("X-Token: {token}");
        let body = format!("{{\"text\": \"{text}\"}}");
        let json = "Content-Type: application/json";
        run("curl", &["-sS", "-H", &token, "-H", json, "-d", &body, &address]);
    };
    request("wrong", "never");
    request("TOKEN", "-v build 128 passed");
    alice.hears(|line| line == "#builds +ci: -v build 128 passed");
}
