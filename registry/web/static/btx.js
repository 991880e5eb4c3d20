// Three things that a page cannot do without: enter by a printed link, watch an audit, sign in the browser.
"use strict";

// The token stands after the #, which no browser sends and no log keeps.
const login = document.getElementById("login");
if (login && location.hash.length > 20) {
  login.token.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search);
  login.submit();
}

const run = document.querySelector("[data-watch]");
if (run && run.dataset.watch) {
  const source = new EventSource(run.dataset.watch);
  source.onmessage = (message) => {
    const told = JSON.parse(message.data);
    const list = document.createElement("ul");
    list.className = "plain";
    for (const check of told.checks) {
      const word = check.ok ? "ok" : "FAIL";
      const line = list.appendChild(document.createElement("li"));
      const mark = line.appendChild(document.createElement("span"));
      mark.className = `state ${word}`;
      mark.textContent = word;
      line.append(` ${check.name} `);
      const count = line.appendChild(document.createElement("span"));
      count.className = "soft";
      count.textContent = `${check.examined} examined`;
    }
    run.querySelector("[data-checks]").replaceChildren(list);
    if (told.state !== "running") { source.close(); location.reload(); }
  };
}

const bytes = (base64) => Uint8Array.from(atob(base64), (mark) => mark.charCodeAt(0));
const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));

async function answered(request) {
  const answer = await request;
  const told = await answer.json();
  if (!answer.ok) throw new Error(`${told.found}; expected ${told.expected}`);
  return told;
}

async function privateKey(file) {
  const text = await file.text();
  if (!text.includes("BEGIN PRIVATE KEY")) throw new Error("not a plain private key in PEM form; an encrypted one signs with btx approve");
  const der = bytes(text.replace(/-----[^-]+-----|\s/g, ""));
  return crypto.subtle.importKey("pkcs8", der, "Ed25519", false, ["sign"]);
}

const form = document.getElementById("sign-form");
if (form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const says = form.querySelector("[data-says]");
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const key = await privateKey(form.key.files[0]);
      const statement = await answered(fetch(`${form.dataset.statement}?why=${encodeURIComponent(form.why.value)}`));
      const signature = await crypto.subtle.sign("Ed25519", key, bytes(statement.message));
      const envelope = {
        payload: statement.payload,
        payloadType: statement.payload_type,
        signatures: [{ keyid: statement.keyid, sig: base64(signature) }],
      };
      const headers = { "content-type": "application/json", "x-csrf": form.dataset.csrf };
      await answered(fetch(form.dataset.send, { method: "POST", headers, body: JSON.stringify(envelope) }));
      location.reload();
    } catch (error) {
      says.className = "notice bad";
      says.textContent = `Not signed: ${error.message}`;
      button.disabled = false;
    }
  });
}
