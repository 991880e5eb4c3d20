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

async function privateKey(file) {
  const text = await file.text();
  if (!text.includes("BEGIN PRIVATE KEY")) throw new Error("not a plain private key in PEM form; an encrypted one signs with btx approve");
  const der = bytes(text.replace(/-----[^-]+-----|\s/g, ""));
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

// A form with data-sign gets what is to be signed from there, and sends the signed envelopes to data-send.
for (const form of document.querySelectorAll("form[data-sign]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const message = form.querySelector("[data-message]");
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const key = await privateKey(form.key.files[0]);
      const words = Object.fromEntries([...new FormData(form)].filter(([name]) => name !== "key"));
      const statement = await answered(fetch(`${form.dataset.sign}?${new URLSearchParams(words)}`));
      let body = null;
      if (statement.acts) {
        const envelopes = [];
        for (const act of statement.acts) envelopes.push(await enveloped(key, act));
        body = { ...words, envelopes };
      } else {
        body = await enveloped(key, statement);
      }
      const headers = { "content-type": "application/json", "x-csrf": form.dataset.csrf };
      await answered(fetch(form.dataset.send, { method: "POST", headers, body: JSON.stringify(body) }));
      if (form.dataset.then) location.assign(form.dataset.then);
      else location.reload();
    } catch (error) {
      message.className = "notice bad";
      message.textContent = `Not signed: ${error.message}`;
      button.disabled = false;
    }
  });
}
