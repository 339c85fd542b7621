"""Ready-made plugins: a section of the .ini names one, `use = egg:paste_wspbus#NAME`."""
