"""A client that breaks the order of SSH authentication (RFC 4252) on purpose.

Arguments: host port alice's-key bob's-key one-valid-code-of-alice. Exits 0 only
if every attempt was refused. Each attempt is a connection of its own.
"""
import sys
import threading
import time

import paramiko
from paramiko import common
from paramiko.message import Message

HOST, PORT, ALICE_KEY, BOB_KEY, CODE = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]


def load(path):
    return paramiko.Ed25519Key.from_private_key_file(path)


ALICE, BOB = load(ALICE_KEY), load(BOB_KEY)
failures = 0


class Raw:
    """A transport whose authentication messages are written by hand."""

    def __init__(self):
        self.t = paramiko.Transport((HOST, PORT))
        self.t.start_client(timeout=10)
        self.replies = []
        self.seen = threading.Event()
        # Every message of the authentication layer comes here instead of to paramiko's own state machine.
        for number in (common.MSG_SERVICE_ACCEPT, 51, 52, 53, 60):
            self.t._auth_handler_table = getattr(self.t, "_auth_handler_table", {})
        handler = paramiko.auth_handler.AuthHandler(self.t)
        self.t.auth_handler = handler
        table = {n: self.keeper(n) for n in (common.MSG_SERVICE_ACCEPT, 51, 52, 53, 60)}
        type(handler)._handler_table = property(lambda _self: table)
        m = Message()
        m.add_byte(common.cMSG_SERVICE_REQUEST)
        m.add_string("ssh-userauth")
        self.t._send_message(m)
        self.wait()

    def keeper(self, number):
        def keep(_handler, message):
            self.replies.append((number, message))
            self.seen.set()
        return keep

    def wait(self):
        """The next reply's number, or None when the connection is gone."""
        end = time.time() + 10
        while not self.replies and self.t.is_active() and time.time() < end:
            self.seen.wait(0.05)
            self.seen.clear()
        return self.replies.pop(0)[0] if self.replies else None

    def request(self, user, method, *parts):
        m = Message()
        m.add_byte(common.cMSG_USERAUTH_REQUEST)
        m.add_string(user)
        m.add_string("ssh-connection")
        m.add_string(method)
        for kind, value in parts:
            getattr(m, "add_" + kind)(value)
        self.t._send_message(m)
        return self.wait()

    def offer(self, user, key):
        return self.request(user, "publickey", ("boolean", False), ("string", key.get_name()), ("string", key.asbytes()))

    def sign(self, user, claimed, signer, signed_user=None):
        blob = Message()
        blob.add_string(self.t.session_id)
        blob.add_byte(common.cMSG_USERAUTH_REQUEST)
        blob.add_string(signed_user or user)
        blob.add_string("ssh-connection")
        blob.add_string("publickey")
        blob.add_boolean(True)
        blob.add_string(claimed.get_name())
        blob.add_string(claimed.asbytes())
        signature = signer.sign_ssh_data(blob.asbytes())
        return self.request(user, "publickey", ("boolean", True), ("string", claimed.get_name()), ("string", claimed.asbytes()),
                            ("string", signature.asbytes() if hasattr(signature, "asbytes") else signature))

    def interactive(self, user):
        return self.request(user, "keyboard-interactive", ("string", ""), ("string", ""))

    def answer(self, *answers):
        m = Message()
        m.add_byte(common.cMSG_USERAUTH_INFO_RESPONSE)
        m.add_int(len(answers))
        for a in answers:
            m.add_string(a)
        self.t._send_message(m)
        return self.wait()

    def open_channel(self):
        m = Message()
        m.add_byte(common.cMSG_CHANNEL_OPEN)
        m.add_string("session")
        m.add_int(0)
        m.add_int(1 << 20)
        m.add_int(1 << 15)
        self.t._send_message(m)
        end = time.time() + 3
        while self.t.is_active() and time.time() < end:
            time.sleep(0.05)
        return 91 if self.t.is_active() and self.opened() else None

    def opened(self):
        return any(n == 91 for n, _ in self.replies)


SUCCESS = 52


def attempt(name, play):
    global failures
    raw = Raw()
    try:
        got = play(raw)
        bad = got == SUCCESS or got == 91 or raw.t.is_authenticated()
    except (EOFError, OSError, paramiko.SSHException) as e:
        got, bad = repr(e), False
    finally:
        raw.t.close()
    print(("LET IN  " if bad else "refused ") + name + ": " + str(got))
    failures += bad


def then(raw, *steps):
    """Runs the steps; the last one's reply counts, but any success is a failure of the server."""
    last = None
    for step in steps:
        last = step(raw)
        if last == SUCCESS:
            return SUCCESS
    return last


# The key alone must bring a partial success (51), or the rest proves nothing.
control = Raw()
assert control.sign("alice", ALICE, ALICE) == 51, "the control login fails at its key"
assert control.interactive("alice") == 60, "the control login is not asked for its code"
control.t.close()

attempt("none", lambda r: r.request("alice", "none"))
attempt("password", lambda r: r.request("alice", "password", ("boolean", False), ("string", "x")))
attempt("code before key", lambda r: r.interactive("alice"))
attempt("offer alice, sign with bob under alice's key", lambda r: then(r, lambda r: r.offer("alice", ALICE), lambda r: r.sign("alice", ALICE, BOB)))
attempt("offer alice, sign as bob for alice's name", lambda r: then(r, lambda r: r.offer("alice", ALICE), lambda r: r.sign("alice", BOB, BOB)))
attempt("sign as bob, then code as alice", lambda r: then(r, lambda r: r.sign("bob", BOB, BOB), lambda r: r.interactive("alice"), lambda r: r.answer(CODE)))
attempt("sign as alice, then code as bob", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.interactive("bob"), lambda r: r.answer(CODE)))
attempt("signature made for another name", lambda r: r.sign("alice", BOB, BOB, signed_user="bob"))
attempt("bob's key, alice's signed name", lambda r: r.sign("bob", ALICE, ALICE, signed_user="alice"))
attempt("none after partial success", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.request("alice", "none")))
attempt("key again after partial success", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.sign("alice", ALICE, ALICE)))
attempt("project added after partial success", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.interactive("alice+genomics"), lambda r: r.answer(CODE)))
attempt("no answers", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.interactive("alice"), lambda r: r.answer()))
attempt("too many answers", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.interactive("alice"), lambda r: r.answer(CODE, CODE)))
attempt("answers nobody asked for", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.answer(CODE)))
attempt("channel before authentication", lambda r: r.open_channel())
attempt("channel after partial success", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.open_channel()))
attempt("channel while the code is asked", lambda r: then(r, lambda r: r.sign("alice", ALICE, ALICE), lambda r: r.interactive("alice"), lambda r: r.open_channel()))
sys.exit(1 if failures else 0)
