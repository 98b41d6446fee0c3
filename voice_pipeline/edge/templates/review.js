// The review page: fetch a task, play it, send the answer. The name stays in this browser.
"use strict";

const byId = (id) => document.getElementById(id);
const player = byId("player");
const transcript = byId("transcript");
const POLL_MS = 15000;

let reviewer = localStorage.getItem("reviewer") || "";
let task = null;
let sending = false;
let spans = [];
let spanStart = null;

function show(section) {
  for (const id of ["who", "task", "done"]) byId(id).hidden = id !== section;
}

function problem(text) {
  byId("problem").textContent = text;
}

async function explain(response) {
  const body = await response.json().catch(() => ({}));
  return typeof body.detail === "string" ? body.detail : `The server answered ${response.status}. Try again.`;
}

async function loadNext() {
  if (!reviewer) {
    show("who");
    byId("progress").textContent = "Tell us who you are";
    byId("reviewer").focus();
    return;
  }
  let response;
  try {
    response = await fetch(`/v1/review/next?reviewer=${encodeURIComponent(reviewer)}`);
  } catch {
    problem("The server cannot be reached. Trying again by itself.");
    setTimeout(loadNext, POLL_MS);
    return;
  }
  if (response.status === 204) {
    task = null;
    show("done");
    byId("progress").textContent = `Nothing waits for ${reviewer}`;
    setTimeout(loadNext, POLL_MS);
    return;
  }
  if (!response.ok) {
    problem(await explain(response));
    if (response.status === 422) forgetReviewer();
    return;
  }
  await present(await response.json());
}

function forgetReviewer() {
  localStorage.removeItem("reviewer");
  reviewer = "";
  show("who");
}

async function present(next) {
  task = next;
  spans = [];
  spanStart = null;
  drawSpans();
  byId("pass").textContent = { first: "New clip", second: "Second opinion", adjudication: "You decide" }[task.review_pass];
  byId("progress").textContent = `${task.remaining} waiting for ${reviewer}`;
  byId("preview-box").hidden = task.preview === null;
  byId("preview").textContent = task.preview || "";
  drawCandidates();
  transcript.value = "";
  byId("unintelligible").checked = false;
  unintelligibleChanged();
  show("task");
  transcript.focus();
  await loadAudio(task.task_id);
}

async function loadAudio(taskId) {
  const response = await fetch(`/v1/review/audio/${encodeURIComponent(taskId)}`);
  if (!response.ok) {
    problem(await explain(response));
    if (response.status === 410) setTimeout(loadNext, 1500);
    return;
  }
  const clip = await response.blob();
  if (!task || task.task_id !== taskId) return;
  if (player.src) URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(clip);
  player.playbackRate = 1;
  player.play().catch(() => {});  // browsers may want a gesture first; the controls are there
}

function drawCandidates() {
  const box = byId("candidates");
  box.replaceChildren();
  for (const text of task.candidates) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text || "(unintelligible)";
    button.addEventListener("click", () => {
      byId("unintelligible").checked = text === "";
      unintelligibleChanged();
      transcript.value = text;
      transcript.focus();
    });
    box.append(button);
  }
  byId("candidates-box").hidden = task.candidates.length === 0;
}

function unintelligibleChanged() {
  const off = byId("unintelligible").checked;
  transcript.disabled = off;
  if (off) transcript.value = "";
}

function mark() {
  const at = player.currentTime;
  if (spanStart === null) {
    spanStart = at;
  } else {
    spans.push({ start_s: Math.min(spanStart, at), end_s: Math.max(spanStart, at), heard: "", said: "" });
    spanStart = null;
  }
  byId("spans-box").open = true;
  drawSpans();
}

function drawSpans() {
  const list = byId("spans");
  list.replaceChildren();
  for (const span of spans) {
    const item = document.createElement("li");
    item.textContent = `${span.start_s.toFixed(2)}–${span.end_s.toFixed(2)} s`;
    list.append(item);
  }
  byId("span-count").textContent = String(spans.length);
  byId("mark").textContent = spanStart === null ? "Mark here" : `Ends here (began at ${spanStart.toFixed(2)} s)`;
}

async function send() {
  if (!task || sending) return;
  const unintelligible = byId("unintelligible").checked;
  if (!unintelligible && !transcript.value.trim()) {
    problem("Write what was said, or mark it unintelligible.");
    transcript.focus();
    return;
  }
  sending = true;
  byId("submit").disabled = true;
  problem("");
  try {
    const response = await fetch(`/v1/review/${encodeURIComponent(task.task_id)}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ reviewer, transcript: transcript.value, unintelligible, spans }),
    });
    if (!response.ok) problem(await explain(response));
    // Gone, answered by another or not ours to answer: move on. Else keep the text for another try.
    if (response.ok || [403, 404, 409, 410].includes(response.status)) await loadNext();
  } catch {
    problem("Not sent: the server cannot be reached. Your text is kept; send it again.");
  } finally {
    sending = false;
    byId("submit").disabled = false;
  }
}

function replay() {
  player.currentTime = 0;
  player.play().catch(() => {});
}

function usePreview() {
  if (!task || !task.preview) return;
  transcript.value = task.preview;
  transcript.focus();
}

function slower() {
  player.playbackRate = player.playbackRate === 1 ? 0.7 : 1;
}

byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  reviewer = byId("reviewer").value.trim();
  localStorage.setItem("reviewer", reviewer);
  problem("");
  loadNext();
});
byId("submit").addEventListener("click", send);
byId("replay").addEventListener("click", replay);
byId("slower").addEventListener("click", slower);
byId("mark").addEventListener("click", mark);
byId("use-preview").addEventListener("click", usePreview);
byId("unintelligible").addEventListener("change", unintelligibleChanged);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === "Enter") { event.preventDefault(); send(); return; }
  if (!event.altKey || !task) return;
  const action = { r: replay, s: slower, m: mark, p: usePreview }[event.key.toLowerCase()];
  if (action) { event.preventDefault(); action(); }
  if (event.key.toLowerCase() === "u") {
    event.preventDefault();
    byId("unintelligible").checked = !byId("unintelligible").checked;
    unintelligibleChanged();
  }
});

loadNext();
