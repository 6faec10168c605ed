"""How fast pictures come from a local server, and with how much memory.

    python benchmarks/fetch.py [--n N] [--per-host K]

A server in a process of its own answers with JPEGs of 60x80 px, as many different ones as there are addresses; pictures are written to
a temporary folder. Each row is a job in a new process: `catalog_tagger fetch` without its imports. Memory is the largest resident set,
with that of the imports beside it."""
import argparse, asyncio, json, os, resource, socket, subprocess, sys, tempfile
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np, pandas as pd
from PIL import Image

def picture(i:int)->bytes:
    "A JPEG with some texture, another one for each number."
    x = np.random.default_rng(i).integers(60, 200, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(x).resize((60, 80), Image.Resampling.BICUBIC).save(b := BytesIO(), 'JPEG', quality=90)
    return b.getvalue()

def serve(sock:socket.socket, n:int)->None:
    "Answer `GET /<i>.jpg` with picture `i`, drawn before."
    pictures = [picture(i) for i in range(n)]
    async def answer(reader, writer):
        try:
            while head := await reader.readuntil(b'\r\n\r\n'):
                data = pictures[int(head.split()[1][1:-4])]
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s' % (len(data), data))
        except (asyncio.IncompleteReadError, ConnectionError): writer.close()
    async def main():
        server = await asyncio.start_server(answer, sock=sock)
        async with server: await server.serve_forever()
    asyncio.run(main())

def job(table:str, out:str, per_host:int)->None:
    "Fetch, and print pictures, seconds, seconds of processor, and MB after the imports and at most, as JSON."
    from catalog_tagger.catalog.fetch import fetch_catalog
    def used(): return resource.getrusage(resource.RUSAGE_SELF)
    before, t = used(), perf_counter()
    res = fetch_catalog(table, out, allow_host=['localhost'], per_host=per_host)
    seconds, after = perf_counter() - t, used()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps(dict(pictures=len(res.fetched), seconds=seconds, cpu=cpu, before=before.ru_maxrss/1024, peak=after.ru_maxrss/1024)))

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--n', type=int, default=10_000, help='most pictures')
    p.add_argument('--per-host', type=int, default=6, help='pictures at the same time')
    p.add_argument('--job', nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.job: sys.exit(job(*args.job, args.per_host))
    with tempfile.TemporaryDirectory() as d, socket.create_server(('127.0.0.1', 0), backlog=128) as sock:
        server = get_context('fork').Process(target=serve, args=(sock, args.n), daemon=True); server.start()
        print(f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before')
        for n in (args.n//5, args.n):
            table = Path(d)/f'{n}.csv'
            pd.DataFrame({'image': [f'http://localhost:{sock.getsockname()[1]}/{i}.jpg' for i in range(n)]}).to_csv(table, index=False)
            argv = [sys.executable, __file__, '--per-host', str(args.per_host), '--job', table, f'{d}/{n}']
            r = subprocess.run(argv, text=True, capture_output=True)
            if r.returncode: sys.exit(r.stderr)
            o = json.loads(r.stdout)
            print(f'{o["pictures"]:,} of {n:,} pictures in {o["seconds"]:.1f} s: {o["pictures"]/o["seconds"]:,.0f} pictures/s, '
                  f'{1000*o["cpu"]/n:.2f} ms of processor each, {o["peak"]:,.0f} MB at most, {o["before"]:,.0f} MB after the imports')
        server.terminate()
