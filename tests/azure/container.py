#!/usr/bin/env python3
"""Makes a container of Azure's blob storage, as soon as it answers; account and endpoint come from AZURE_ variables.

Object stores of programs cannot make their own. Signed as in "Authorize with Shared Key" of Azure's documentation.
"""
import base64
import hashlib
import hmac
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from email.utils import formatdate

name = sys.argv[1]
endpoint = os.environ["AZURE_STORAGE_ENDPOINT"]
account = os.environ["AZURE_STORAGE_ACCOUNT_NAME"]
key = base64.b64decode(os.environ["AZURE_STORAGE_ACCOUNT_KEY"])

path = urllib.parse.urlsplit(endpoint).path
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
signed = "PUT" + "\n" * 12 + "".join(f"{header}:{value}\n" for header, value in headers.items())
signed += f"/{account}{path}/{name}\nrestype:container"
digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", headers=headers)

for attempt in range(60):
    try:
        urllib.request.urlopen(request)
        sys.exit(0)
    except urllib.error.HTTPError as error:
        sys.exit(f"azure: {endpoint}/{name}: {error.code} {error.read().decode()}")
    except urllib.error.URLError:
        time.sleep(0.5)
sys.exit(f"azure: nothing answers at {endpoint}")
