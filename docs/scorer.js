// How the search of the site orders its results: see html_search_scorer in conf.py.
"use strict";

// Pages about how it is built and what has changed come after those for users.
const LATER = /^(CHANGES|CONTRIBUTING|SECURITY|tests\/|benchmarks\/)|docs\/(decisions|architecture|proofs|records|comparison|index)$/;

// The page that has questions and their pages.
const QUESTIONS = "docs/README";

// The page that has messages: its titles have few words of them.
const MESSAGES = "docs/troubleshooting";

// Words of a question that say nothing about its subject.
const NOTHING = new Set("a an and any as at be by can do for from how i in is it my of on or the to what when where which with without".split(" "));

function wordsOf(text) {
  return text.toLowerCase().split(/[^\w.]+/).filter((one) => one && !NOTHING.has(one));
}

// Whether two words are forms of one: worker and workers, close and closes.
function isForm(one, other) {
  const length = Math.min(one.length, other.length);
  if (length < 4) return one === other;
  return one.startsWith(other.slice(0, length)) || other.startsWith(one.slice(0, length));
}

// The titles of each page: {page: [[words, anchor], …]}.
let titlesOf;

function readTitles() {
  titlesOf = {};
  for (const [title, places] of Object.entries(Search._index.alltitles))
    for (const [page, anchor] of places)
      (titlesOf[Search._index.docnames[page]] ??= []).push([wordsOf(title), anchor]);
}

var Scorer = {
  // A result is [page, title, anchor, description, score, file, kind]. A text is found in a
  // page; the section whose title has most words of the question is where the link leads.
  score: (result) => {
    if (!titlesOf) readTitles();
    const asked = wordsOf(new URLSearchParams(window.location.search).get("q") || "");
    let most = 0;
    for (const [words, anchor] of titlesOf[result[0]] || []) {
      const found = asked.filter((one) => words.some((word) => isForm(one, word)));
      const points = found.length && found.length + found.length / (words.length + 1);
      if (points > most) {
        most = points;
        if (!result[2] && anchor) result[2] = `#${anchor}`;
        else if (result[6] === "text") result[2] = anchor ? `#${anchor}` : "";
      }
    }
    const own = wordsOf(Search._index.titles[Search._index.docnames.indexOf(result[0])]);
    const named = asked.filter((one) => own.some((word) => isForm(one, word))).length;
    const score = result[4] + 10 * most + 6 * named + (result[0] === QUESTIONS ? 10 : 0)
      + (result[0] === MESSAGES && !most ? 8 : 0);
    return LATER.test(result[0]) ? score / 10 : score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
