// What the operator's hands do in one frame, and the packet that tells it.

export const HANDS = ['left', 'right'];
const VERSION = 1;
const HEADER_BYTES = 16, HAND_BYTES = 52;
const RUNNING = 1, PRESENT = 1, TRACKED = 2;
const BUTTONS = 6; // of the xr-standard mapping; the others differ from headset to headset
const PRESSED = 0.5;

// Bare hands. Thumb tip to index tip: 2 mm pinched, 90 mm at rest.
const PINCHED_M = 0.015, UNPINCHED_M = 0.06;
// A finger's length from wrist to tip over that from wrist to knuckle: 1.9 at rest, 1 in a fist.
const CURLED = 1.1, STRAIGHT = 1.6;
const CLUTCH_FINGERS = ['middle', 'ring', 'pinky'];

export function newHand() {
  return { present: false, tracked: false, trigger: 0, squeeze: 0, stick: [0, 0], buttons: 0,
    pose: [0, 0, 0, 0, 0, 0, 1] }; // x y z, then quaternion x y z w
}

// Away: the rig opens the clutch and wants to see the grip open before it closes again.
export function release(hand) {
  Object.assign(hand, { present: false, tracked: false, squeeze: 0 });
}

export function readSource(hand, source, frame, room) {
  hand.present = true;
  if (source.hand) readFingers(hand, source.hand, frame, room);
  else if (source.gamepad) readGamepad(hand, source.gamepad);
  const wrist = source.hand?.get('wrist');
  setPose(hand, source.gripSpace ? frame.getPose(source.gripSpace, room)
    : wrist && frame.getJointPose(wrist, room));
}

export function setPose(hand, pose) {
  // An emulated position is a guess of the headset that does not see the hand.
  hand.tracked = Boolean(pose && !pose.emulatedPosition);
  if (!hand.tracked) return;
  const { position: p, orientation: q } = pose.transform;
  hand.pose = [p.x, p.y, p.z, q.x, q.y, q.z, q.w];
}

function readGamepad(hand, gamepad) {
  const value = (i) => gamepad.buttons[i]?.value ?? 0;
  hand.trigger = value(0);
  hand.squeeze = value(1);
  // Axes 0 and 1 are a touchpad, 2 and 3 a thumbstick; they count backwards as positive.
  const first = gamepad.axes.length >= 4 ? 2 : 0;
  hand.stick = [gamepad.axes[first] ?? 0, -(gamepad.axes[first + 1] ?? 0)];
  hand.buttons = 0;
  for (let i = 0; i < BUTTONS; i++) {
    // Trigger and squeeze call themselves pressed at the lightest touch.
    const down = i < 2 ? value(i) > PRESSED : gamepad.buttons[i]?.pressed;
    if (down) hand.buttons |= 1 << i;
  }
}

function readFingers(hand, joints, frame, room) {
  const at = (name) => frame.getJointPose(joints.get(name), room)?.transform.position;
  const wrist = at('wrist'), thumb = at('thumb-tip'), index = at('index-finger-tip');
  if (!wrist || !thumb || !index) return; // tracking is lost, which the pose tells
  hand.trigger = fraction(distance(thumb, index), UNPINCHED_M, PINCHED_M);
  let curl = 0;
  for (const finger of CLUTCH_FINGERS) {
    const tip = at(`${finger}-finger-tip`), knuckle = at(`${finger}-finger-phalanx-proximal`);
    if (!tip || !knuckle) return;
    const reach = distance(wrist, tip) / distance(wrist, knuckle);
    curl += fraction(reach, STRAIGHT, CURLED) / CLUTCH_FINGERS.length;
  }
  hand.squeeze = curl;
  hand.stick = [0, 0];
  hand.buttons = (hand.trigger > PRESSED ? 1 : 0) | (hand.squeeze > PRESSED ? 2 : 0);
}

const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y, a.z - b.z);
const fraction = (value, zero, one) => Math.min(1, Math.max(0, (value - zero) / (one - zero)));

export function packet(seq, atMs, running, hands) {
  const bytes = new ArrayBuffer(HEADER_BYTES + HANDS.length * HAND_BYTES);
  const view = new DataView(bytes);
  view.setUint8(0, VERSION);
  view.setUint8(1, running ? RUNNING : 0);
  view.setUint32(4, seq, true);
  view.setFloat64(8, atMs, true);
  HANDS.forEach((name, i) => {
    const hand = hands[name], at = HEADER_BYTES + i * HAND_BYTES;
    view.setUint8(at, (hand.present ? PRESENT : 0) | (hand.tracked ? TRACKED : 0));
    view.setUint32(at + 4, hand.buttons, true);
    [...hand.pose, hand.trigger, hand.squeeze, ...hand.stick].forEach(
      (value, k) => view.setFloat32(at + 8 + 4 * k, value, true));
  });
  return bytes;
}
