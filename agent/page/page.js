// The page works without this. With it what goes on is followed, and an upload shows
// how far it has come.
"use strict";
const $ = id => document.getElementById(id);
const parse = html => new DOMParser().parseFromString(html, "text/html");

async function get(path) {
	const r = await fetch(path, {credentials: "same-origin"});
	if (r.status === 401) location.assign("/");
	if (!r.ok) throw new Error(r.status);
	return parse(await r.text());
}

// become makes a node what a fresh one is, and touches only what differs: what somebody
// opened, ticked or typed stays, and a screen reader says only what is new. Where the
// children of an element have ids, these tell which of them went, and which came.
function become(old, fresh) {
	if (old.nodeName !== fresh.nodeName || old.id !== fresh.id) return old.replaceWith(fresh);
	if (old.nodeType === Node.TEXT_NODE) {
		if (old.data !== fresh.data) old.data = fresh.data;
		return;
	}
	for (const a of fresh.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
	for (const a of [...old.attributes]) if (a.name !== "open" && !fresh.hasAttribute(a.name)) old.removeAttribute(a.name);
	const ids = new Set([...fresh.children].map(c => c.id));
	for (const c of [...old.children]) if (c.id && !ids.has(c.id)) c.remove();
	let at = old.firstChild;
	for (const c of [...fresh.childNodes]) {
		if (!at || c.id && c.id !== at.id) {
			old.insertBefore(c, at);
			continue;
		}
		const next = at.nextSibling;
		become(at, c);
		at = next;
	}
	while (at) {
		const next = at.nextSibling;
		at.remove();
		at = next;
	}
}

// put brings a part of the page up to date. Whoever was where something went is at the
// heading of that section then; the end of the log stays in sight.
function put(id, doc) {
	const log = $("log"), end = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
	const was = document.activeElement, section = was && was.closest("section");
	become($(id), doc.getElementById(id));
	if (section && !was.isConnected) section.querySelector("h2").focus();
	if (end) log.scrollTop = log.scrollHeight;
}

let stamp = $("now").dataset.stamp;
async function follow() {
	let wait = 3000;
	if (!document.hidden) {
		try {
			const doc = await get("/now"), now = doc.getElementById("now").dataset;
			const fresh = now.stamp, busy = "busy" in now;
			put("now", doc);
			if (fresh !== stamp) {
				const all = await get("/live" + location.search);
				put("state", all);
				put("kept", all);
				stamp = fresh;
			}
			if (busy) wait = 1000;
			$("lost").textContent = "";
		} catch (e) {
			$("lost").textContent = document.body.dataset.lost;
		}
	}
	setTimeout(follow, wait);
}
setTimeout(follow, 1000);
$("log").scrollTop = $("log").scrollHeight;

const form = $("upload");
if (form) form.addEventListener("submit", event => {
	event.preventDefault();
	const x = new XMLHttpRequest(), bar = $("sent"), said = $("uploaded"), button = $("do-install");
	const end = text => { bar.hidden = true; button.disabled = false; said.textContent = text; };
	x.open("POST", form.action);
	x.upload.onprogress = e => { if (e.lengthComputable) bar.value = e.loaded * 100 / e.total; };
	x.onload = () => {
		const why = parse(x.responseText).querySelector("main > [role=alert]");
		end(x.status === 200 || !why ? "" : why.textContent);
	};
	x.onerror = x.onabort = () => end(document.body.dataset.cut);
	bar.value = 0;
	bar.hidden = false;
	button.disabled = true;
	said.textContent = "";
	x.send(new FormData(form));
});
