// The page of the rig: pairs, says in words how things stand, and starts a session.

import { Link } from './link.js';
import { Session } from './session.js';

const $ = (id) => document.getElementById(id);
const SHOWN_MS = 100; // between updates of the page's figures
const STATES = { idle: 'ready: hold the grip', engaged: 'guiding the arm',
  limited: 'guiding, at a limit', lost: 'lost: open the grip, grip again',
  stopped: 'stopped by the rig' };

const MEANINGS = { start: 'start an episode', stop: 'end the episode',
  start_stop: 'start or end an episode', success: 'it succeeded', failure: 'it failed',
  redo: 'do the episode again', quit: 'end the session', emergency_stop: 'stop the robot',
  gripper: 'open or close the gripper' };

let hands = [], session = null, status = null, connection = '';
const canvas = document.createElement('canvas'); // what the headset shows; not part of the page
const phone = { hand: 'right', held: false, grip: false, buttons: 0 };

const link = new Link({
  state(words, kind) {
    connection = words;
    $('connection').textContent = words;
    $('connection').dataset.state = kind;
  },
  welcome(welcome) {
    hands = ['left', 'right'].filter((name) => name in welcome.hands);
    phone.hand = hands.includes('right') ? 'right' : hands[0];
    for (const name of ['left', 'right']) $(name).hidden = !hands.includes(name);
    $('pairing').hidden = true;
    $('start').hidden = false;
    $('view-card').hidden = !welcome.view;
    $('view-name').textContent = welcome.view ?? '';
    explainButtons(welcome.hands);
    offer();
  },
  refused(reason, words) {
    $('pairing').hidden = reason !== 'code';
    $('start').hidden = reason === 'code';
    $('refusal').textContent = `${words} Type it here and press Connect.`;
    $('advice').textContent = words;
    for (const id of ['enter-vr', 'enter-ar']) $(id).hidden = true;
  },
  status(news) {
    status = news;
    for (const [hand, strength] of Object.entries(news.pulses)) session?.pulse(hand, strength);
  },
  async view(jpeg) {
    const bitmap = await createImageBitmap(jpeg);
    if (session?.scene) {
      session.scene.setPicture(bitmap);
    } else {
      const canvas = $('view');
      if (canvas.width !== bitmap.width) [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
      canvas.getContext('2d').drawImage(bitmap, 0, 0);
    }
    bitmap.close();
  },
});

// What the rig file makes of the buttons.
function explainButtons(meanings) {
  const said = (hand, button) => MEANINGS[meanings[hand][button]] ?? meanings[hand][button];
  const parts = [];
  for (const hand of hands) {
    for (const button of Object.keys(meanings[hand])) {
      const drawn = { a: hand === 'left' ? 'X' : 'A', b: hand === 'left' ? 'Y' : 'B' }[button];
      parts.push(`${drawn ?? button} (${hand}): ${said(hand, button)}`);
    }
  }
  $('explained').textContent = parts.join(', ');
  $('explained').hidden = parts.length === 0;
  $('phone-a').hidden = !('a' in meanings[phone.hand]);
  $('phone-a').textContent = said(phone.hand, 'a');
}

// What this device can do, as buttons.
async function offer() {
  const can = (mode) => navigator.xr?.isSessionSupported(mode).catch(() => false) ?? false;
  const [vr, ar] = [await can('immersive-vr'), await can('immersive-ar')];
  $('enter-vr').hidden = !vr || Boolean(session);
  $('enter-ar').hidden = !ar || Boolean(session);
  $('enter-ar').textContent = vr ? 'Enter with see-through' : 'Guide with this phone';
  $('advice').textContent = advice(vr, ar);
}

function advice(vr, ar) {
  if (session) return 'You are in. Leave with the headset’s menu button.';
  if (vr) return 'Put the headset on, take the controllers or use bare hands, and enter.';
  if (ar) return 'Stand facing the way the robot faces, hold the phone upright, and start.';
  return 'This browser has no WebXR. Open the page in the headset’s own browser, '
    + 'or in Chrome on an Android phone.';
}

async function enter(mode) {
  const next = new Session(link, canvas, phone, { ended: left });
  try {
    await next.enter(mode, $('phone'));
  } catch (error) {
    next.xr?.end();
    $('advice').textContent = `The headset did not start the session: ${error.message}`;
    return;
  }
  session = next;
  $('phone').hidden = !session.isPhone;
  $('page').hidden = session.isPhone;
  offer();
}

function left() {
  session = null;
  hold(false); // the finger may leave the screen when its field is gone already
  phone.buttons = 0;
  $('phone').hidden = true;
  $('page').hidden = false;
  offer();
}

function stateOf(name) {
  const hand = session?.hands[name];
  if (!link.paired) return ['lost', 'no connection to the rig'];
  if (!hand) return ['idle', 'waits until you enter'];
  if (!hand.present) return ['lost', 'not there'];
  if (!hand.tracked) return ['lost', 'not seen by the headset'];
  const state = status?.states[name] ?? 'idle';
  return [state, STATES[state] ?? state];
}

function show() {
  const texts = [], states = {};
  for (const name of hands) {
    const [state, said] = stateOf(name), hand = session?.hands[name];
    const label = $(name).querySelector('.state');
    label.textContent = said;
    label.dataset.state = state;
    $(name).querySelector('.squeeze').value = hand?.squeeze ?? 0;
    $(name).querySelector('.trigger').value = hand?.trigger ?? 0;
    states[name] = state;
    texts.push([hands.length > 1 ? `${name}: ${said}` : said, state]);
  }
  $('figures').textContent = figures();
  if (!session) return;
  session.status = { states, texts: link.paired ? texts : [[connection, 'lost']] };
  if (!session.isPhone) return;
  const [state, said] = stateOf(phone.hand);
  $('phone-state').textContent = state === 'idle' ? 'ready: hold the field below' : said;
  $('phone-state').dataset.state = state;
}

function figures() {
  if (!status || !link.paired) return '';
  if (session && status.age_ms !== null) return `poses reach the rig ${status.age_ms.toFixed(1)} ms old`;
  return status.round_trip_ms === null ? '' : `round trip ${status.round_trip_ms.toFixed(1)} ms`;
}

function press(id, down, up) {
  $(id).addEventListener('pointerdown', down);
  for (const event of ['pointerup', 'pointercancel', 'pointerleave']) $(id).addEventListener(event, up);
}

$('enter-vr').onclick = () => enter('immersive-vr');
$('enter-ar').onclick = () => enter('immersive-ar');
$('phone-end').onclick = () => session?.leave();
$('phone-grip').onclick = () => { phone.grip = !phone.grip; };
press('phone-a', () => { phone.buttons = 1 << 4; }, () => { phone.buttons = 0; });
function hold(held) {
  phone.held = held;
  $('hold').classList.toggle('held', held);
}
press('hold', () => hold(true), () => hold(false));
$('code-form').onsubmit = (event) => {
  event.preventDefault();
  history.replaceState(null, '', `#${$('code').value.trim()}`);
  link.connect(location.hash.slice(1));
};
window.onhashchange = () => link.connect(location.hash.slice(1));
setInterval(show, SHOWN_MS);
offer();
link.connect(location.hash.slice(1));
