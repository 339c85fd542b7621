<title>A ${code} Error has Occurred</title>
