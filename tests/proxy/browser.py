"""Has Chromium load a page through a proxy, as DevTools do, and says what came of it.

Usage: browser.py PROXY URL KEYS USER PASSWORD [SCREENSHOT]

KEYS are the public keys that it takes in certificates, hashed, with commas in between. It prints
one object: the `text` of the page, the `status` of the answer, why there is none (`error`), and who
has asked for a password (`asked`).
"""

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time

UNTIL = time.monotonic() + 60


class Browser:
    """A Chromium whose DevTools are at the two ends of a pair of pipes."""

    def __init__(self, proxy, keys, profile):
        commands, self.commands = os.pipe()
        self.events, events = os.pipe()

        def place():
            # Where Chromium looks for them. Their numbers may be the other way round.
            first, second = os.dup(commands), os.dup(events)
            high = [os.dup(first), os.dup(second)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-dev-shm-usage",
                "--remote-debugging-pipe", f"--user-data-dir={profile}",
                f"--proxy-server={proxy}",
                # Otherwise loopback is reached without the proxy.
                "--proxy-bypass-list=<-loopback>",
                f"--ignore-certificate-errors-spki-list={keys}",
            ],
            close_fds=False, preexec_fn=place, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(events)
        self.heard = b""
        self.last = 0

    def send(self, method, session=None, **parameters):
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        return self.last

    def hear(self):
        """The next message."""
        while b"\0" not in self.heard:
            left = UNTIL - time.monotonic()
            if left <= 0 or not select.select([self.events], [], [], left)[0]:
                raise SystemExit("the browser has said nothing for too long")
            piece = os.read(self.events, 1 << 16)
            if not piece:
                raise SystemExit("the browser has gone")
            self.heard += piece
        message, self.heard = self.heard.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **parameters):
        """What a command answers; events meanwhile are passed over."""
        number = self.send(method, session, **parameters)
        while True:
            message = self.hear()
            if message.get("id") == number:
                if "error" in message:
                    raise SystemExit(f"{method}: {message['error']}")
                return message["result"]


def load(browser, session, url, user, password):
    """Loads the page; what is said of it until it is there."""
    said = {"status": None, "error": None, "asked": []}
    browser.send("Page.navigate", session, url=url)
    while True:
        message = browser.hear()
        event, told = message.get("method"), message.get("params", {})
        if event == "Fetch.requestPaused":
            browser.send("Fetch.continueRequest", session, requestId=told["requestId"])
        elif event == "Fetch.authRequired":
            is_first = not said["asked"]
            said["asked"].append(told["authChallenge"]["source"])
            answer = {"response": "CancelAuth"}
            if is_first:
                answer = {"response": "ProvideCredentials", "username": user, "password": password}
            browser.send(
                "Fetch.continueWithAuth", session, requestId=told["requestId"],
                authChallengeResponse=answer,
            )
        elif event == "Network.responseReceived" and told["type"] == "Document":
            said["status"] = told["response"]["status"]
        elif event == "Network.loadingFailed" and told["type"] == "Document":
            said["error"] = told["errorText"]
        elif event == "Page.loadEventFired":
            return said


def main():
    proxy, url, keys, user, password = sys.argv[1:6]
    # Chromium may still write to its profile when it is killed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(proxy, keys, profile)
        try:
            target = browser.call("Target.createTarget", url="about:blank")["targetId"]
            attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
            session = attached["sessionId"]
            for domain in ["Page", "Network"]:
                browser.call(f"{domain}.enable", session)
            browser.call("Fetch.enable", session, handleAuthRequests=True)
            said = load(browser, session, url, user, password)
            # The page itself may ask for more: an icon, say.
            browser.call("Fetch.disable", session)
            text = browser.call(
                "Runtime.evaluate", session, expression="document.body.innerText"
            )
            said["text"] = text["result"].get("value", "")
            if len(sys.argv) > 6:
                shot = browser.call("Page.captureScreenshot", session)["data"]
                with open(sys.argv[6], "wb") as file:
                    file.write(base64.b64decode(shot))
        finally:
            browser.process.kill()
            browser.process.wait()
    print(json.dumps(said))


main()
