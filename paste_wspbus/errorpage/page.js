(function () {
  var page = document.body, tag = page.dataset.tag, timer;
  function look() {
    clearTimeout(timer);
    if (document.hidden) return;
    fetch(location.href, {method: 'HEAD', cache: 'no-store', redirect: 'manual',
                          headers: {Accept: 'text/html'}}).then(function (answer) {
      if (!answer.headers.has('X-WSPBus-Problem')) return change();
      if (answer.headers.get('X-WSPBus-Problem-Tag') !== tag) return change();
      later();
    }, later);
  }
  function later() { timer = setTimeout(look, 1000); }
  function change() {
    if (page.dataset.asks === 'yes') location.reload();
    else document.getElementById('again').hidden = false;
  }
  document.addEventListener('visibilitychange', look);
  later();
  var copy = document.getElementById('copy'), text = document.getElementById('text');
  if (copy) {
    copy.hidden = false;
    copy.onclick = function () {
      getSelection().selectAllChildren(text);
      document.execCommand('copy');
      copy.textContent = 'Copied';
    };
  }
})();
