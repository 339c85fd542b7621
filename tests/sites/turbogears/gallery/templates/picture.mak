<p>Picture ${number} of ${len(pictures)}, hung ${session['hung']}: ${h.title(pictures[number - 1])}.
<a href="${tg.url('/')}">Bus</a> ${app_globals.bus.state.name}</p>
