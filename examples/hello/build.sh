# Runs inside the image with the directory mounted read-only at /src and as its working directory.
# What it writes to /app becomes part of the image.
set -e
mkdir -p /app
cp greeting.txt /app/
printf '#!/bin/sh\ncat /app/greeting.txt\n' > /app/hello
chmod 755 /app/hello
echo "built /app/hello"
