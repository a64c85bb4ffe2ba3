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

// put replaces a part of the page, unless somebody is in it.
function put(id, doc) {
	const old = $(id), fresh = doc.getElementById(id);
	if (!old || !fresh || old.innerHTML === fresh.innerHTML) return;
	if (old.contains(document.activeElement) && document.activeElement.id !== "log") return;
	const log = $("log"), below = log.scrollTop + log.clientHeight >= log.scrollHeight - 8, top = log.scrollTop;
	const focus = document.activeElement && document.activeElement.id;
	old.replaceWith(document.adoptNode(fresh));
	if (focus && !document.activeElement.id && $(focus)) $(focus).focus();
	if (id === "now") $("log").scrollTop = below ? $("log").scrollHeight : top;
}

let stamp = $("now").dataset.stamp;
async function follow() {
	let wait = 3000;
	if (!document.hidden) {
		try {
			const doc = await get("/now"), now = doc.getElementById("now");
			put("now", doc);
			if (now.dataset.stamp !== stamp) {
				const all = await get("/live" + location.search);
				put("state", all);
				put("kept", all);
				stamp = now.dataset.stamp;
			}
			if ("busy" in now.dataset) wait = 1000;
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
	const x = new XMLHttpRequest(), bar = $("sent"), said = $("uploaded");
	const end = text => { bar.hidden = true; form.querySelector("button").disabled = false; said.textContent = text; };
	x.open("POST", form.action);
	x.upload.onprogress = e => { if (e.lengthComputable) bar.value = e.loaded * 100 / e.total; };
	x.onload = () => {
		const why = x.status === 200 ? null : parse(x.responseText).querySelector("[role=alert]");
		end(why ? why.textContent : "");
	};
	x.onerror = x.onabort = () => end(document.body.dataset.cut);
	bar.value = 0;
	bar.hidden = false;
	form.querySelector("button").disabled = true;
	said.textContent = "";
	x.send(new FormData(form));
});
