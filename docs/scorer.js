// How the search of the site orders its results: see html_search_scorer in conf.py.
"use strict";

// Pages about how it is built and what has changed come after those for users. So does the
// page that has questions and their pages: its rows are among the titles of those pages.
const LATER = /^(CHANGES|CONTRIBUTING|SECURITY|tests\/|benchmarks\/)|docs\/(decisions|architecture|proofs|records|comparison|index|README)$/;

// The page that has messages: its titles have few words of them.
const MESSAGES = "docs/troubleshooting";

// Words of a question that say nothing about its subject.
const NOTHING = new Set("a an and any as at be by can do does for from get how i if in is it make many may much my need of on or should the to use want what when where which why with without".split(" "));

function wordsOf(text) {
  return text.toLowerCase().split(/[^\w.]+/).filter((one) => one && !NOTHING.has(one));
}

// Whether two words are forms of one: worker and workers, close and closes.
function isForm(one, other) {
  const length = Math.min(one.length, other.length);
  if (length < 4) return one === other;
  return one.startsWith(other.slice(0, length)) || other.startsWith(one.slice(0, length));
}

// The titles of each page, and the questions that lead to it: {page: [[words, anchor], …]}.
let titlesOf;

function readTitles() {
  titlesOf = {};
  const add = (page, text, anchor) => (titlesOf[page] ??= []).push([wordsOf(text), anchor]);
  for (const [title, places] of Object.entries(Search._index.alltitles))
    for (const [page, anchor] of places) add(Search._index.docnames[page], title, anchor);
  // conf.py puts them into the page of the search.
  for (const [question, page, anchor] of QUESTIONS) add(page, question, anchor);
}

// How much a word of the question says: less, the more pages have it. {word of the index: weight}
let weights = {};

// The weight of a word as it was asked; the index has its stem.
function weightOf(word) {
  const stems = Object.keys(weights).filter((stem) => isForm(stem, word));
  return stems.length ? Math.max(...stems.map((stem) => weights[stem])) : 0.5;
}

// What a title says of the words that were asked.
function saidBy(words, asked) {
  const found = asked.filter((one) => words.some((word) => isForm(one, word)));
  return found.reduce((sum, one) => sum + weightOf(one), 0);
}

function askedWords() {
  return wordsOf(new URLSearchParams(window.location.search).get("q") || "");
}

// Sphinx finds only the pages that have all words. Here a page, or one of its titles, needs
// half of what they say.
function findMost(findAll) {
  return (terms, excluded) => {
    const pages = new Map();
    const count = Search._index.docnames.length;
    const found = [...terms].map((term) => [term, findAll(new Set([term]), excluded)]);
    const known = found.filter(([term, results]) => results.length && !NOTHING.has(term));
    weights = Object.fromEntries(
      known.map(([term, results]) => [term, Math.log((count + 1) / results.length)]),
    );
    const most = Math.max(...Object.values(weights));
    for (const term in weights) weights[term] /= most;
    const whole = Object.values(weights).reduce((sum, one) => sum + one, 0);
    for (const [term, results] of known)
      for (const result of results) {
        const page = pages.get(result[0]) ?? pages.set(result[0], [result, 0, 0]).get(result[0]);
        page[1] += weights[term] / whole;
        page[2] += weights[term] * result[4];
      }
    if (!titlesOf) readTitles();
    const asked = askedWords();
    Search._index.docnames.forEach((name, number) => {
      const said = (titlesOf[name] || []).map(([words]) => saidBy(words, asked) / whole);
      const part = Math.max(0, ...said);
      const empty = [name, Search._index.titles[number], "", null, 0, Search._index.filenames[number], "text"];
      const page = pages.get(name) ?? pages.set(name, [empty, 0, 0]).get(name);
      page[1] = Math.max(page[1], part);
    });
    return [...pages.values()]
      .filter(([, part]) => part >= 0.5)
      .map(([result, part, score]) => [...result.slice(0, 4), score + 30 * part, ...result.slice(5)]);
  };
}

// Search is made behind this, in the same file.
queueMicrotask(() => {
  Search.performTermsSearch = findMost(Search.performTermsSearch);
});

var Scorer = {
  // A result is [page, title, anchor, description, score, file, kind]. A text is found in a
  // page; the section whose title has most words of the question is where the link leads.
  score: (result) => {
    if (!titlesOf) readTitles();
    const asked = askedWords();
    let most = 0;
    for (const [words, anchor] of titlesOf[result[0]] || []) {
      const found = asked.filter((one) => words.some((word) => isForm(one, word)));
      const points = saidBy(words, asked) + found.length / (words.length + 1);
      if (points > most) {
        most = points;
        if (!result[2] || result[6] === "text") result[2] = anchor ? `#${anchor}` : "";
      }
    }
    const own = wordsOf(Search._index.titles[Search._index.docnames.indexOf(result[0])]);
    const score = result[4] + 10 * most + 6 * saidBy(own, asked)
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
