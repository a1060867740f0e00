#!/bin/sh
# Lethe in ten lines of curl: remember, recall, answer, forget, prove. Run it from this folder, with LETHE_KEY set.
set -eu
call() { curl -fsS -H "Authorization: Bearer $LETHE_KEY" -H 'Prefer: wait=60' "$@"; echo; }
URL=${LETHE_URL:-http://127.0.0.1:8700}/v1

call "$URL/documents" -F file=@harbour/incident-report-2026-02.txt -F external_id=incident -F 'subjects=["vessel:solbris"]'
call "$URL/memories" --json '{"text": "Wen Halloran likes her tea without sugar.", "user_id": "wen"}'
call "$URL/recall" --json '{"query": "bow ramp dropped", "limit": 2}'
call "$URL/answer" --json '{"query": "Which hydraulic hose burst when the bow ramp dropped?"}'
ID=$(call "$URL/forget" --json '{"scope": {"user_id": "wen"}, "mode": "execute"}' | sed 's/^{"id":"\([^"]*\)".*/\1/')
call "$URL/forget/$ID/certificate"
