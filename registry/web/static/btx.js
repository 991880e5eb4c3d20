// What a page cannot do without: enter by a printed link, watch a long action, sign in the browser, find one's way in a graph.
"use strict";

// The token stands after the #, which no browser sends and no log keeps.
const login = document.getElementById("login");
if (login && location.hash.length > 20) {
  login.token.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search);
  login.submit();
}

const run = document.querySelector("[data-watch]");
if (run) {
  const since = Date.parse(run.dataset.since), elapsed = run.querySelector("[data-elapsed]");
  setInterval(() => { elapsed.textContent = `${Math.max(0, Math.round((Date.now() - since) / 1000))} s so far.`; }, 1000);
  const source = new EventSource(run.dataset.watch);
  source.onmessage = (message) => {
    const grown = JSON.parse(message.data), list = document.createElement("ul");
    list.className = "plain";
    for (const check of grown.checks) {
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
    document.querySelector("[data-checks]")?.replaceChildren(list);
    if (grown.state !== "running") { source.close(); location.reload(); }
  };
  // A browser tries again by itself unless the answer was no: then the page itself says why.
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000); };
}

// The graph: bring the subject into view, and lift the lines of the node under the pointer or the focus.
function walk() {
  const graph = document.querySelector(".graph");
  if (!graph) return;
  const subject = graph.querySelector(".subject").getBoundingClientRect(), frame = graph.getBoundingClientRect();
  graph.scrollTop += subject.top + subject.height / 2 - frame.top - frame.height / 2;
  graph.scrollLeft += subject.left + subject.width / 2 - frame.left - frame.width / 2;
  const lift = (event) => {
    const node = event.target.closest("[data-node]");
    for (const line of graph.querySelectorAll(".on")) line.classList.remove("on");
    if (node) for (const line of graph.querySelectorAll(`.edge.${node.dataset.node}`)) line.classList.add("on");
  };
  graph.addEventListener("pointerover", lift);
  graph.addEventListener("focusin", lift);
}
walk();
document.addEventListener("htmx:afterSettle", () => {
  walk();
  document.querySelector(".graph .subject")?.focus({ preventScroll: true });
});

const bytes = (base64) => Uint8Array.from(atob(base64), (mark) => mark.charCodeAt(0));
const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));

async function answered(request) {
  const response = await request;
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.found}; expected ${answer.expected}`);
  return answer;
}

// What DER holds at a position: the content of one element, and where the next one begins.
function element(der, at) {
  let length = der[at + 1], start = at + 2;
  if (length & 0x80) {
    const digits = length & 0x7f;
    length = der.slice(start, start + digits).reduce((sum, digit) => sum * 256 + digit, 0);
    start += digits;
  }
  return { content: der.slice(start, start + length), next: start + length };
}

function elements(der) {
  const found = [];
  for (let at = 0; at < der.length; ) {
    const one = element(der, at);
    found.push(one.content);
    at = one.next;
  }
  return found;
}

// An encrypted key as `btx key new` writes it: PBES2 with PBKDF2 over SHA-256, and AES in CBC mode.
async function decrypted(der, passphrase) {
  const [scheme, sealed] = elements(element(der, 0).content);
  const [derivation, cipher] = elements(elements(scheme)[1]);
  const [salt, iterations] = elements(elements(derivation)[1]);
  const iv = elements(cipher)[1];
  const count = iterations.reduce((sum, digit) => sum * 256 + digit, 0);
  const secret = await crypto.subtle.importKey("raw", new TextEncoder().encode(passphrase), "PBKDF2", false, ["deriveKey"]);
  const stretched = { name: "PBKDF2", hash: "SHA-256", salt, iterations: count };
  const key = await crypto.subtle.deriveKey(stretched, secret, { name: "AES-CBC", length: 256 }, false, ["decrypt"]);
  try {
    return await crypto.subtle.decrypt({ name: "AES-CBC", iv }, key, sealed);
  } catch {
    throw new Error("another passphrase; expected that of the key");
  }
}

async function privateKey(file, passphrase) {
  const text = await file.text();
  const encrypted = text.includes("BEGIN ENCRYPTED PRIVATE KEY");
  if (!encrypted && !text.includes("BEGIN PRIVATE KEY")) throw new Error("not a private key in PEM form; expected what btx key new wrote");
  if (encrypted && !passphrase) throw new Error("an encrypted key; expected its passphrase too");
  let der = bytes(text.replace(/-----[^-]+-----|\s/g, ""));
  if (encrypted) der = await decrypted(der, passphrase);
  return crypto.subtle.importKey("pkcs8", der, "Ed25519", false, ["sign"]);
}

async function enveloped(key, statement) {
  const signature = await crypto.subtle.sign("Ed25519", key, bytes(statement.message));
  return {
    payload: statement.payload,
    payloadType: statement.payload_type,
    signatures: [{ keyid: statement.keyid, sig: base64(signature) }],
  };
}

// What a form says, without the key and its passphrase; files as their text.
async function wordsOf(form) {
  const words = {};
  for (const [name, value] of new FormData(form)) {
    if (name === "key" || name === "passphrase") continue;
    words[name] = value instanceof File ? await value.text() : value;
  }
  return words;
}

async function post(form, address, body) {
  const headers = { "content-type": "application/json", "x-csrf": form.dataset.csrf };
  return answered(fetch(address, { method: "POST", headers, body: JSON.stringify(body) }));
}

async function signedBy(form, acts) {
  const key = acts.length ? await privateKey(form.key.files[0], form.passphrase.value) : null;
  const envelopes = [];
  for (const act of acts) envelopes.push(await enveloped(key, act));
  return envelopes;
}

// A form with data-sign gets what is to be signed from there, and sends the signed envelopes to data-send.
async function signAndSend(form) {
  const words = await wordsOf(form);
  const statement = await answered(fetch(`${form.dataset.sign}?${new URLSearchParams(words)}`));
  const envelopes = await signedBy(form, statement.acts ?? [statement]);
  return post(form, form.dataset.send, statement.acts ? { ...words, envelopes } : envelopes[0]);
}

// One with data-act sends what it asks for to data-act/draft, and again with what was signed to data-act.
async function draftAndAct(form) {
  const words = await wordsOf(form);
  const drafted = await post(form, `${form.dataset.act}/draft`, words);
  return post(form, form.dataset.act, { ...words, envelopes: await signedBy(form, drafted.acts) });
}

for (const form of document.querySelectorAll("form[data-sign], form[data-act]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const message = form.querySelector("[data-message]");
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      await (form.dataset.act ? draftAndAct(form) : signAndSend(form));
      if (form.dataset.then) location.assign(form.dataset.then);
      else location.reload();
    } catch (error) {
      message.className = "notice bad";
      message.textContent = `Not done: ${error.message}`;
      button.disabled = false;
    }
  });
}
