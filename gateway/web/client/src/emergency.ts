/** Which calls are emergencies (R30): placed without waiting for any answer. */

/** What gateways take for emergency numbers by default. */
export const EMERGENCY_NUMBERS: ReadonlySet<string> = new Set(["112", "911", "999", "000", "110", "119"]);

const SIP = /^sips?:(?:([^@:]+)(?::[^@]*)?@)?([^;?:@[\]]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:[;?].*)?$/i;

/**
 * Whether this is an emergency number; nothing is matched by prefix.
 *
 * Compared is `to` without `tel:` and separators, or the user part of a SIP address of one of `sipDomains`.
 */
export function isEmergency(
  to: string,
  numbers: ReadonlySet<string> = EMERGENCY_NUMBERS,
  sipDomains: ReadonlySet<string> = new Set(),
): boolean {
  let number = to;
  const sip = SIP.exec(to);
  if (/^tel:/i.test(to)) number = to.slice(4).split(";", 1)[0]!;
  else if (sip !== null) {
    const host = sip[2]!.toLowerCase();
    if (![...sipDomains].some((domain) => domain.toLowerCase() === host)) return false;
    number = unescaped(sip[1] ?? "").split(";", 1)[0]!;
  }
  return numbers.has(number.replace(/[-.() ]/g, ""));
}

function unescaped(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
