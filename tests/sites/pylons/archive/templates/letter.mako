<p>Letter ${number} of ${len(letters)}, posted ${session['posted']}: ${letters[int(number) - 1]}.
${h.link_to('Bus', url('/'))} ${app_globals.bus.state.name}</p>
