// The WebSocket to the rig: says hello, answers pings, reconnects. See drivers/webxr/protocol.py.

const VERSION = 1;
const RETRY_MS = 500, BUSY_MS = 2000;
const MENDED_BY_HAND = ['code', 'version', 'replaced']; // refusals that trying again does not mend
const MAX_UNSENT = 20000; // bytes; more means that the network stands still: skip, never queue

export class Link {
  // on: {state(words, kind), welcome(welcome), refused(reason, words), status(status), view(jpeg)}
  constructor(on) {
    this.on = on;
    this.code = '';
    this.client = identity();
    this.paired = false;
  }

  connect(code) {
    this.code = code;
    this.socket?.close();
    this.#open();
  }

  #open() {
    clearTimeout(this.retry);
    const socket = new WebSocket(`wss://${location.host}/socket`);
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => socket.send(
      JSON.stringify({ version: VERSION, code: this.code, client: this.client }));
    socket.onmessage = (event) => this.#hear(socket, event.data);
    socket.onclose = () => {
      if (socket !== this.socket) return;
      this.paired = false;
      if (MENDED_BY_HAND.includes(this.refusal)) return;
      if (!this.refusal) this.on.state('connection lost, trying again', 'bad');
      this.retry = setTimeout(() => this.#open(), this.refusal ? BUSY_MS : RETRY_MS);
    };
    this.socket = socket;
    this.refusal = '';
  }

  #hear(socket, data) {
    if (typeof data !== 'string') {
      this.on.view(new Blob([new Uint8Array(data, 8)], { type: 'image/jpeg' }))
        .finally(() => socket.readyState === 1 && socket.send('{"shown":1}'));
      return;
    }
    const message = JSON.parse(data);
    if (message.ping !== undefined) {
      socket.send(JSON.stringify({ pong: message.ping, at: performance.now() }));
    } else if (message.status) {
      this.on.status(message.status);
    } else if (message.welcome) {
      this.paired = true;
      this.on.state('paired with the rig', 'good');
      this.on.welcome(message.welcome);
    } else if (message.refused) {
      const { reason, words } = message.refused;
      this.refusal = reason;
      this.paired = false;
      this.on.state('not paired', 'bad');
      this.on.refused(reason, words);
    }
  }

  // Whether the bytes were taken; old poses are of no use, so nothing is kept for later.
  send(bytes) {
    if (!this.paired || this.socket.readyState !== 1) return false;
    if (this.socket.bufferedAmount > MAX_UNSENT) return false;
    this.socket.send(bytes);
    return true;
  }
}

// The rig takes one operator at a time; a page that was reloaded is still the same one.
function identity() {
  let id = sessionStorage.getItem('client');
  if (!id) {
    id = crypto.randomUUID();
    sessionStorage.setItem('client', id);
  }
  return id;
}
