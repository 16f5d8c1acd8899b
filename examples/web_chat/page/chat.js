// One run at a time. Its id outlives a reload of the page; the text does not need to: the server sends it again.

const [form, about, send, stop, leave, answer, state] =
  ["ask", "about", "send", "stop", "leave", "answer", "state"].map((id) => document.getElementById(id));
const ENDS = { RunCompleted: "The end.", RunCancelled: "Stopped.", RunError: "It failed." };
const kept = sessionStorage;
let events = null;

function show(text, live) {
  state.textContent = text;
  stop.disabled = !live;
  send.disabled = live;
}

// Reads a run from its beginning. If the connection drops, the browser asks again for what it has not seen yet.
function follow(id) {
  answer.textContent = "";
  show("Telling ...", true);
  events = new EventSource(`api/runs/${id}/events`);
  events.addEventListener("RunContent", (event) => (answer.textContent += JSON.parse(event.data).content));
  events.addEventListener("RunStopRequested", () => show("Stopping ...", true));
  for (const [name, text] of Object.entries(ENDS)) {
    events.addEventListener(name, () => {
      events.close();
      show(text, false);
    });
  }
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED) show("This story is no longer there.", false);
    else show("Reconnecting ...", true);
  });
  events.addEventListener("open", () => show("Telling ...", true));
}

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const said = await response.json();
  if (!response.ok) throw new Error(said.detail);
  return said;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  send.disabled = true; // one story for two quick clicks
  try {
    const run = await post("api/runs", {
      agent: "storyteller", message: about.value, background: true, on_disconnect: "cancel",
    });
    kept.setItem("run", run.run_id);
    kept.setItem("token", run.stop_token);
    follow(run.run_id);
  } catch (error) {
    show(error.message, false);
  }
});

stop.addEventListener("click", async () => {
  show("Stopping ...", true);
  try {
    await post(`api/runs/${kept.getItem("run")}/cancel`, { reason: "Stop was pressed" });
  } catch (error) {
    if (events.readyState !== EventSource.CLOSED) show(error.message, true); // else it has ended meanwhile
  }
});

// A page that goes away has no time for an answer: a beacon is sent all the same, and its token stops this run alone.
leave.addEventListener("click", () => {
  if (!stop.disabled) navigator.sendBeacon(`api/runs/${kept.getItem("run")}/cancel`, kept.getItem("token"));
  kept.clear();
  location.reload();
});

if (kept.getItem("run")) follow(kept.getItem("run"));
